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

// What advance_beams is made of. A block has one image, its beams, and this memory for all threads.
struct Image {
    const float *top_logits, *log_sum_exp;  // of each beam, and
    const long long* top_ids;               // its best tokens, the best first
    const int *rules, *end_ids;
    int *history, *differ_from;
    float* totals;
    int beams, top, ends, keep;  // beams, tokens of each, end tokens, tokens that are looked at
    int now, length;             // tokens that each beam has, and has room for
};
struct Scratch {
    unsigned banned[MAX_BEAMS];  // a bit a column
    int allowed[MAX_BEAMS];      // tokens that may come, of each beam
    float total[MAX_BEAMS * TOP_K], best_total[TOP_K], going_total[MAX_BEAMS];
    int best[TOP_K], going[MAX_BEAMS], differing[MAX_BEAMS * MAX_BEAMS];
};
constexpr float OUT = -1e9f;            // of beams that do not exist yet, and of those that end
constexpr float LEAST = -3.402823e38f;  // of tokens that may not come

// Ban the tokens that would complete an n-gram which the beam has.
static __device__ void ban_repeated(const Image& image, Scratch& scratch)
{
    int ngram = image.rules[0], top = image.top, now = image.now;
    for (int n = 0; ngram > 0 && n < image.beams; ++n) {
        const int* past = image.history + n * image.length;
        for (int start = threadIdx.x; start + ngram <= now; start += blockDim.x) {
            int same = 0;
            while (same < ngram - 1 && past[start + same] == past[now - (ngram - 1) + same])
                ++same;
            for (int c = 0; same == ngram - 1 && c < top; ++c)
                if (image.top_ids[n * top + c] == past[start + same])
                    atomicOr(&scratch.banned[n], 1u << c);
        }
    }
}

// Add up what each token would come to, and count those that may come.
static __device__ void add_up(const Image& image, Scratch& scratch)
{
    int thread = threadIdx.x, top = image.top, row = thread / top, column = thread % top;
    if (thread >= image.beams * top)
        return;
    bool may_end = image.now > image.rules[2];
    float score = image.top_logits[thread] - image.top_logits[row * top] - image.log_sum_exp[row];
    bool may_come = !(scratch.banned[row] >> column & 1) && score - score == 0;
    for (int e = 0; e < image.ends && !may_end; ++e)
        may_come = may_come && image.top_ids[thread] != image.end_ids[e];
    scratch.total[thread] = may_come ? score + image.totals[row] : LEAST;
    if (may_come)
        atomicAdd(&scratch.allowed[row], 1);
}

// The place of a value among `count`, the earlier of equals first.
static __device__ int place_of(int which, const float* values, int count)
{
    int place = 0;
    for (int other = 0; other < count; ++other)
        place += values[other] > values[which]
            || values[other] == values[which] && other < which;
    return place;
}

// Choose which tokens go on (`going`, `going_total`): of the best `keep`, those that do not end.
static __device__ void choose(const Image& image, Scratch& scratch)
{
    int thread = threadIdx.x, count = image.beams * image.top;
    if (thread < count) {
        int place = place_of(thread, scratch.total, count);
        if (place < image.keep)
            scratch.best[place] = thread;
    }
    __syncthreads();
    if (thread < image.keep) {
        int best = scratch.best[thread];
        float score = scratch.total[best];
        for (int e = 0; e < image.ends; ++e)
            if (image.top_ids[best] == image.end_ids[e])
                score = scratch.total[best] + OUT;
        scratch.best_total[thread] = score;
    }
    __syncthreads();
    if (thread < image.keep) {
        int place = place_of(thread, scratch.best_total, image.keep);
        if (place < image.beams) {
            scratch.going[place] = scratch.best[thread];
            scratch.going_total[place] = scratch.best_total[thread];
        }
    }
}

// Give each beam the past of its parent; the position from where on some beam has another than before.
static __device__ int move_pasts(const Image& image, Scratch& scratch)
{
    int thread = threadIdx.x, beams = image.beams, top = image.top, now = image.now, first = now;
    for (int n = 0; n < beams; ++n) {
        int parent = scratch.going[n] / top, since = image.differ_from[n * beams + parent];
        if (parent != n && since < first)
            first = since;
    }
    if (thread < beams * beams) {
        int parent = scratch.going[thread / beams] / top;
        int other = scratch.going[thread % beams] / top;
        scratch.differing[thread] =
            parent == other ? now : image.differ_from[parent * beams + other];
    }
    __syncthreads();
    if (thread < beams * beams)
        image.differ_from[thread] = scratch.differing[thread];
    for (int at = first + thread; at < now; at += blockDim.x) {
        int past[MAX_BEAMS];
#pragma unroll
        for (int n = 0; n < MAX_BEAMS; ++n)
            if (n < beams)
                past[n] = image.history[scratch.going[n] / top * image.length + at];
#pragma unroll
        for (int n = 0; n < MAX_BEAMS; ++n)
            if (n < beams)
                image.history[n * image.length + at] = past[n];
    }
    return first;
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
    __shared__ Scratch scratch;
    int block = blockIdx.x, images = gridDim.x, thread = threadIdx.x, count = beams * top;
    int now = (int)*position + 1, row = block * beams;  // of the image's first beam
    rules += block * RULES;
    Image image = {
        top_logits + row * top, log_sum_exp + row, top_ids + row * top, rules, rules + 4,
        history + (long long)row * length, differ_from + row * beams, totals + row,
        beams, top, rules[3], (1 + rules[3]) * beams, now, length};
    int place_of_image = (now - 1) % slots * images + block, slot = place_of_image * beams;
    bool begins = now == 1, forced = begins && rules[1] >= 0;

    if (thread < count) {
        kept_logits[slot * top + thread] = image.top_logits[thread];
        kept_ids[slot * top + thread] = image.top_ids[thread];
    }
    if (thread < beams) {
        kept_log_sum_exp[slot + thread] = image.log_sum_exp[thread];
        scratch.banned[thread] = scratch.allowed[thread] = 0;
        if (begins) {
            image.history[thread * length] = (int)token_ids[row + thread];
            image.totals[thread] = thread ? OUT : 0;
        }
    }
    if (begins && thread < beams * beams)
        image.differ_from[thread] = 0;
    __syncthreads();
    ban_repeated(image, scratch);
    __syncthreads();
    add_up(image, scratch);
    __syncthreads();

    bool holds = *held != 0;
    for (int n = 0; n < beams; ++n)
        holds = holds || !forced && scratch.allowed[n] < image.keep;
    if (thread == 0) {
        kept_held[place_of_image] = holds;
        if (block == 0 && !*held)
            *next_position = now;
        if (holds)
            *next_held = 1;
    }
    if (holds)  // all threads of the block
        return;

    if (!forced)
        choose(image, scratch);
    else if (thread < beams)
        scratch.going[thread] = thread * top, scratch.going_total[thread] = image.totals[thread];
    __syncthreads();
    int first = move_pasts(image, scratch);
    if (thread < beams) {
        int going = scratch.going[thread];
        long long token = forced ? rules[1] : image.top_ids[going];
        image.history[thread * length + now] = (int)token;
        image.totals[thread] = scratch.going_total[thread];
        next_token_ids[row + thread] = kept_tokens[slot + thread] = token;
        next_parents[row + thread] = kept_parents[slot + thread] = going / top;
    }
    if (thread == 0)
        next_first[block] = first;
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
