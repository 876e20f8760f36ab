"""Scores and thresholds: how sure the model is of each region, each label and each token.

python examples/09_scores.py BUNDLE street.jpg --min-score 0.5
python examples/09_scores.py BUNDLE street.jpg --task CAPTION

A score is exp of the mean log-probability of the tokens that say a thing, 0 to 1: of the four
location tokens for a box, of the words for a label. It ranks well, and is not a probability.
"""

import argparse
import math

from florence_edge import Florence2


def main() -> None:
    parser = argparse.ArgumentParser(description="Show the scores of an answer.")
    parser.add_argument("bundle", help="the folder that florence-export wrote")
    parser.add_argument("picture")
    parser.add_argument("--task", default="OD")
    parser.add_argument("--min-score", type=float, default=0.5, help="0 to 1")
    arguments = parser.parse_args()

    with Florence2.load(arguments.bundle) as model:
        result = model.run(arguments.picture, arguments.task)

    print(f"the whole answer: {result.score:.2f} ({result.status})")
    for region in sorted(result.regions, key=lambda each: each.score, reverse=True):
        label = "" if region.label_score is None else f"  {region.label} {region.label_score:.2f}"
        print(f"box {region.score:.2f}{label}")

    kept = result.filter(arguments.min_score)  # text, tokens and status stay as they are
    print(f"{len(kept.regions)} of {len(result.regions)} regions at {arguments.min_score} or above")

    tokens = zip(result.token_log_probs, result.token_ids, strict=True)
    print("least certain tokens:")
    for log_prob, token in sorted(tokens)[:3]:
        print(f"  id {token}: {math.exp(log_prob):.2f}")


if __name__ == "__main__":
    main()
