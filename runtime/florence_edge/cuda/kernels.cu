// The kernels around the engines. Sizes of a launch are frozen into CUDA graphs; what changes from
// step to step (the position, the parents) is therefore read from device memory.

typedef unsigned int Word;  // caches move in words: two halves or one float

// Place the rows that a decoder step has produced: caches[c][r][*position] = rows[c][r].
// Threads: x over rows_per_cache * row_words, y over caches. `stride`: words from the rows of one
// cache to those of the next.
extern "C" __global__ void place_rows(
    Word* caches, const Word* rows, const long long* position,
    int rows_per_cache, int row_words, int capacity, int stride)
{
    int word = blockIdx.x * blockDim.x + threadIdx.x;
    if (word >= rows_per_cache * row_words)
        return;
    int row = word / row_words;
    long long cache_row = (long long)blockIdx.y * rows_per_cache + row;
    caches[(cache_row * capacity + *position) * row_words + word % row_words] =
        rows[(long long)blockIdx.y * stride + word];
}

// Give each beam the past of its parent, from row `*first` to before row `*position`:
// caches[c][image][n][head] = caches[c][image][parents[image][n]][head].
// In place: a thread holds the same word of all beams, so that it has read them all before it
// writes one. Threads: x over capacity * row_words, y over heads, z over caches * images.
extern "C" __global__ void follow(
    Word* caches, const long long* parents, const long long* first, const long long* position,
    int images, int beams, int capacity, int row_words)
{
    long long word = *first * row_words + blockIdx.x * blockDim.x + threadIdx.x;
    if (word >= *position * row_words)
        return;
    int heads = gridDim.y;
    const long long* parent = parents + (blockIdx.z % images) * beams;
    long long beam_words = (long long)heads * capacity * row_words;
    Word* start = caches + (long long)blockIdx.z * beams * beam_words
        + (long long)blockIdx.y * capacity * row_words + word;
    Word past[MAX_BEAMS];
    for (int n = 0; n < beams; ++n)
        past[n] = start[parent[n] * beam_words];
    for (int n = 0; n < beams; ++n)
        start[n * beam_words] = past[n];
}

// Keep the scores of a greedy step and feed the next with the best token that completes no n-gram
// again, as the search on the host will unless a token is forced or its n-grams are of another
// length; then the guess is wrong, and costs a step. `history` holds the tokens fed so far, to
// *position. Threads: x over top, at most 64; the first chooses.
extern "C" __global__ void feed_best(
    const Word* top_log_probs, const long long* top_ids,
    Word* kept_log_probs, long long* kept_ids, long long* kept_token,
    long long* history, long long* token_id, long long* position, int top, int ngram)
{
    int candidate = blockIdx.x * blockDim.x + threadIdx.x;
    if (candidate < top) {
        kept_log_probs[candidate] = top_log_probs[candidate];
        kept_ids[candidate] = top_ids[candidate];
    }
    if (candidate > 0)
        return;
    long long length = *position + 1;
    unsigned long long banned = 0;
    for (long long start = 0; ngram > 0 && start + ngram <= length; ++start) {
        const long long* begun = history + length - (ngram - 1);
        int same = 1;
        for (int i = 0; same && i < ngram - 1; ++i)
            same = history[start + i] == begun[i];
        for (int c = 0; same && c < top; ++c)
            if (top_ids[c] == history[start + ngram - 1])
                banned |= 1ull << c;
    }
    int best = 0;
    while (best < top - 1 && (banned >> best & 1))
        ++best;
    history[length] = *token_id = *kept_token = top_ids[best];
    *position = length;
}

// One pass of a separable resize of RGB bytes along one axis, in Pillow's fixed-point arithmetic:
// output o of a line is the sum of its taps, source[first[o] + t] * weights[o][t], t < count[o].
// Steps are bytes: `*_line` from a line to the next, `*_step` along it. Threads: x and y over
// outputs and lines, or over lines and outputs where the lines lie next to each other in memory.
extern "C" __global__ void resample(
    const unsigned char* source, long long source_line, long long source_step,
    unsigned char* target, long long target_line, long long target_step,
    const int* first, const int* count, const int* weights,
    int max_taps, int outputs, int lines, int lines_first)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y;
    int output = lines_first ? y : x;
    int line = lines_first ? x : y;
    if (output >= outputs || line >= lines)
        return;
    const unsigned char* pixel = source + line * source_line + first[output] * source_step;
    const int* weight = weights + (long long)output * max_taps;
    int sum[3];
    for (int c = 0; c < 3; ++c)
        sum[c] = 1 << (PRECISION_BITS - 1);
    for (int t = 0; t < count[output]; ++t, pixel += source_step)
        for (int c = 0; c < 3; ++c)
            sum[c] += pixel[c] * weight[t];
    unsigned char* written = target + line * target_line + output * target_step;
    for (int c = 0; c < 3; ++c) {
        int value = sum[c] >> PRECISION_BITS;
        written[c] = value < 0 ? 0 : value > 255 ? 255 : value;
    }
}
