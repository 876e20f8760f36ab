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

// Give each beam the past of its parent, from row `first[image]` to before row `*position`:
// caches[c][image][n][head] = caches[c][image][parents[image][n]][head], unless `*held`.
// In place: a thread holds the same word of all beams, so that it has read them all before it
// writes one. The loops are unrolled, or `past` would lie in memory instead of registers.
// Threads: x over capacity * row_words, y over heads, z over caches * images.
extern "C" __global__ void follow(
    Word* caches, const long long* parents, const long long* first, const long long* position,
    const long long* held, int images, int beams, int capacity, int row_words)
{
    int image = blockIdx.z % images;
    long long word = first[image] * row_words + blockIdx.x * blockDim.x + threadIdx.x;
    if (word >= *position * row_words || *held)
        return;
    int heads = gridDim.y;
    const long long* parent = parents + image * beams;
    long long beam_words = (long long)heads * capacity * row_words;
    Word* start = caches + (long long)blockIdx.z * beams * beam_words
        + (long long)blockIdx.y * capacity * row_words + word;
    Word past[MAX_BEAMS];
#pragma unroll
    for (int n = 0; n < MAX_BEAMS; ++n)
        if (n < beams)
            past[n] = start[parent[n] * beam_words];
#pragma unroll
    for (int n = 0; n < MAX_BEAMS; ++n)
        if (n < beams)
            start[n * beam_words] = past[n];
}

// The step of the beam search (search.py), for one image a block: the best (1 + E)N tokens over its
// N beams, E being the number of end tokens; of these the best N that do not end go on. It decides
// as the search on the host will, to the last bit, or not at all: where the top K may not suffice,
// `held` says so, and from there on nothing is decided or moved. Which answers are complete is left
// to the host, which is given the scores of every step, in slot position % slots of `kept_*`.
//
// Read: the decoder's scores of the tokens at *position; the image's `rules`, which are the size of
// n-grams that may not come twice, the token that is forced at first (or -1), how many new tokens an
// answer has at least, E, and the end tokens.
// Written: what the next step is fed with (`next_*`), which the step after copies to where the
// decoder reads. Between steps, of each image: the tokens of the beams (`history`, `length` a beam),
// the sums of their log-probabilities (`totals`), and for each two beams the first position at which
// their pasts differ (`differ_from`, as in beam_reorder.py). They begin at position 0.
// Threads: x in blocks of at least beams * top, with at most MAX_BEAMS beams and TOP_K scores.
extern "C" __global__ void advance_beams(
    const float* top_logits, const long long* top_ids, const float* log_sum_exp, const int* rules,
    const long long* position, const long long* token_ids, const long long* held,
    long long* next_position, long long* next_token_ids, long long* next_parents,
    long long* next_first, long long* next_held, int* history, float* totals, int* differ_from,
    float* kept_logits, long long* kept_ids, float* kept_log_sum_exp, long long* kept_tokens,
    long long* kept_parents, long long* kept_held, int beams, int top, int length, int slots)
{
    const float out = -1e9f;            // of beams that do not exist yet, and of those that end
    const float least = -3.402823e38f;  // of tokens that may not come
    __shared__ float total[MAX_BEAMS * TOP_K], best_total[TOP_K], going_total[MAX_BEAMS];
    __shared__ unsigned banned[MAX_BEAMS];
    __shared__ int allowed[MAX_BEAMS], best[TOP_K], going[MAX_BEAMS], differing[MAX_BEAMS * MAX_BEAMS];

    int image = blockIdx.x, images = gridDim.x, thread = threadIdx.x, count = beams * top;
    rules += image * RULES;
    int row = thread / top, column = thread % top, ends = rules[3], keep = (1 + ends) * beams;
    int now = (int)*position + 1;  // tokens that each beam has
    bool begins = now == 1, may_end = now > rules[2];
    int place_of_image = (now - 1) % slots * images + image, slot = place_of_image * beams;
    top_logits += image * count, top_ids += image * count, log_sum_exp += image * beams;
    history += (long long)image * beams * length, totals += image * beams;
    differ_from += image * beams * beams;

    if (thread < count) {
        kept_logits[slot * top + thread] = top_logits[thread];
        kept_ids[slot * top + thread] = top_ids[thread];
    }
    if (thread < beams) {
        kept_log_sum_exp[slot + thread] = log_sum_exp[thread];
        banned[thread] = allowed[thread] = 0;
        if (begins) {
            history[thread * length] = (int)token_ids[image * beams + thread];
            totals[thread] = thread ? out : 0;
        }
    }
    if (begins && thread < beams * beams)
        differ_from[thread] = 0;
    __syncthreads();

    // Tokens that would complete an n-gram which the beam has.
    int ngram = rules[0];
    for (int n = 0; ngram > 0 && n < beams; ++n) {
        const int* past = history + n * length;
        for (int start = thread; start + ngram <= now; start += blockDim.x) {
            int same = 0;
            while (same < ngram - 1 && past[start + same] == past[now - (ngram - 1) + same])
                ++same;
            for (int c = 0; same == ngram - 1 && c < top; ++c)
                if (top_ids[n * top + c] == past[start + same])
                    atomicOr(&banned[n], 1u << c);
        }
    }
    __syncthreads();
    if (thread < count) {
        float score = top_logits[thread] - top_logits[row * top] - log_sum_exp[row];
        bool may_come = !(banned[row] >> column & 1) && score - score == 0;
        for (int e = 0; e < ends && !may_end; ++e)
            may_come = may_come && top_ids[thread] != rules[4 + e];
        total[thread] = may_come ? score + totals[row] : least;
        if (may_come)
            atomicAdd(&allowed[row], 1);
    }
    __syncthreads();

    bool forced = begins && rules[1] >= 0, holds = *held != 0;
    for (int n = 0; n < beams; ++n)
        holds = holds || !forced && allowed[n] < keep;
    if (thread == 0) {
        kept_held[place_of_image] = holds;
        if (image == 0 && !*held)
            *next_position = now;
        if (holds)
            *next_held = 1;
    }
    if (holds)  // all threads of the block
        return;

    if (forced) {
        if (thread < beams)
            going[thread] = thread * top, going_total[thread] = totals[thread];
    } else {
        if (thread < count) {  // its place among all, the earlier of equals first
            int place = 0;
            for (int other = 0; other < count; ++other)
                place += total[other] > total[thread]
                    || total[other] == total[thread] && other < thread;
            if (place < keep)
                best[place] = thread;
        }
        __syncthreads();
        if (thread < keep) {
            float score = total[best[thread]];
            for (int e = 0; e < ends; ++e)
                if (top_ids[best[thread]] == rules[4 + e])
                    score = total[best[thread]] + out;
            best_total[thread] = score;
        }
        __syncthreads();
        if (thread < keep) {
            int place = 0;
            for (int other = 0; other < keep; ++other)
                place += best_total[other] > best_total[thread]
                    || best_total[other] == best_total[thread] && other < thread;
            if (place < beams)
                going[place] = best[thread], going_total[place] = best_total[thread];
        }
    }
    __syncthreads();

    int first = now;  // from where on some beam gets another past
    for (int n = 0; n < beams; ++n) {
        int parent = going[n] / top, since = differ_from[n * beams + parent];
        if (parent != n && since < first)
            first = since;
    }
    if (thread < beams * beams) {
        int parent = going[thread / beams] / top, other = going[thread % beams] / top;
        differing[thread] = parent == other ? now : differ_from[parent * beams + other];
    }
    __syncthreads();
    if (thread < beams * beams)
        differ_from[thread] = differing[thread];
    for (int at = first + thread; at < now; at += blockDim.x) {
        int past[MAX_BEAMS];
#pragma unroll
        for (int n = 0; n < MAX_BEAMS; ++n)
            if (n < beams)
                past[n] = history[going[n] / top * length + at];
#pragma unroll
        for (int n = 0; n < MAX_BEAMS; ++n)
            if (n < beams)
                history[n * length + at] = past[n];
    }
    if (thread < beams) {
        long long token = forced ? rules[1] : top_ids[going[thread]];
        history[thread * length + now] = (int)token;
        totals[thread] = going_total[thread];
        next_token_ids[image * beams + thread] = kept_tokens[slot + thread] = token;
        next_parents[image * beams + thread] = kept_parents[slot + thread] = going[thread] / top;
    }
    if (thread == 0)
        next_first[image] = first;
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
