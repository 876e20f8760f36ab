"""florence-bench serve: a server under load, beside direct batches of the same pictures."""

import argparse
import json
from pathlib import Path

from florence_edge.task_arguments import tasks_by_needs
from florence_edge.tasks import Needs

from ..results_io import check_writable, without_folders, write_text
from ..serve.run import LoadPlan, ServeResult, measure
from .arguments import count, positive

HELP = "a server under load"
DESCRIPTION = (
    "Start florence-serve with BUNDLE, compare its throughput with direct batches by turns, then "
    "ask more than it can take: every answer is compared with the single one."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    plan = LoadPlan()
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="exported folder")
    parser.add_argument(
        "--task", default=plan.task, help=f"default: OD. {tasks_by_needs(Needs.NOTHING)}"
    )
    parser.add_argument("--threads", type=count, metavar="N", help="threads of the CPU engine")
    for name, default in (
        ("clients", plan.clients),
        ("batch", plan.batch),
        ("rounds", plan.rounds),
        ("overload-clients", plan.overload_clients),
        ("queue", plan.queue),
    ):
        parser.add_argument(
            f"--{name}", type=count, default=default, metavar="N", help=f"default {default}"
        )
    for name, seconds in (
        ("round-seconds", plan.round_seconds),
        ("overload-seconds", plan.overload_seconds),
    ):
        parser.add_argument(
            f"--{name}", type=positive, default=seconds, metavar="S", help=f"default {seconds:g}"
        )
    parser.add_argument("--output", type=Path, metavar="FILE", help="results as JSON")


def run(arguments: argparse.Namespace) -> str:
    """Measure, write the result and say it."""
    check_writable(arguments.output)
    plan = LoadPlan(
        task=arguments.task,
        clients=arguments.clients,
        batch=arguments.batch,
        rounds=arguments.rounds,
        round_seconds=arguments.round_seconds,
        overload_clients=arguments.overload_clients,
        queue=arguments.queue,
        overload_seconds=arguments.overload_seconds,
    )
    result = measure(arguments.bundle, plan, arguments.threads)
    if arguments.output is not None:
        content = without_folders(result.to_json())
        write_text(arguments.output, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return _said(result)


def _said(result: ServeResult) -> str:
    plan, over = result.plan, result.overload
    served = ", ".join(f"{each.served / each.direct:.2f}" for each in result.rounds)
    statuses = ", ".join(f"{count} times {status}" for status, count in over.statuses.items())
    return (
        f"{plan.clients} clients: {result.share:.2f} of direct batches of {plan.batch} "
        f"(rounds: {served}); p50 {result.p50:.3f} s, p99 {result.p99:.3f} s, "
        f"{result.lost} lost, {result.wrong} wrong\n"
        f"{plan.overload_clients} clients on a queue of {plan.queue} for {over.seconds:.0f} s: "
        f"{statuses}; {over.lost} lost, {over.wrong} wrong; p99 {over.p99:.3f} s; "
        f"memory {over.rss_before / 1e6:.0f} to {over.rss_after / 1e6:.0f} MB"
    )
