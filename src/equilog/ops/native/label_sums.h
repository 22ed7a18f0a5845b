// The two sums of each pool of yes/no labels: v t exp(-x) over its positives, v (1 - t) exp(x) over its negatives.
#pragma once
#include "units.h"

// What a block of labels is summed in as floats, before it is added in double.
constexpr int64_t BLOCK = 1024;

// Numbers of any type in a row, as floats; past the end of a row, what is next in the table, or 0.
template <class T>
struct Numbers {
    const T* at;
    const T* end;
    Floats operator()(int64_t k, int count) const {
        T values __attribute__((vector_size(WIDTH * sizeof(T)))) = {};
        if (count == WIDTH || at + k + WIDTH <= end) std::memcpy(&values, at + k, sizeof values);
        else std::memcpy(&values, at + k, count * sizeof(T));
        return __builtin_convertvector(values, Floats);
    }
};

// A pool's targets from a table of them.
template <class T>
struct Valued {
    const T* table;
    const T* end;
    int64_t stride;
    Numbers<T> row(int64_t pool, int64_t) const { return {table + pool * stride, end}; }
};

// A pool's targets from the numbers of its positives in order, filled up with its number of labels; read in order.
struct Named {
    const int64_t* table;
    int64_t stride;
    struct Row {
        const int64_t* next;
        const int64_t* end;
        Floats operator()(int64_t k, int) {
            Floats values{};
            for (; next < end && *next < k + WIDTH; ++next)
                values = numbered() == int32_t(*next - k) ? all(1.0f) : values;
            return values;
        }
    };
    Row row(int64_t pool, int64_t begin) const {
        const int64_t *first = table + pool * stride, *end = first + stride;
        return {std::lower_bound(first, end, begin), end};
    }
};

// Factors of labels: one each, one a pool (step 0), the same for all pools (stride 0), or none.
struct Weights {
    const float* table;
    const float* end;
    int64_t stride, step;
    struct Row {
        const float* at;
        const float* end;
        int64_t step;
        Floats operator()(int64_t k, int count) const {
            if (at == nullptr) return all(1.0f);
            return step == 0 ? all(*at) : Numbers<float>{at, end}(k, count);
        }
    };
    Row row(int64_t pool) const { return {table == nullptr ? nullptr : table + pool * stride, end, step}; }
};

// v t and v (1 - t), 0 where the label is left out, whatever else it holds.
struct Shares {
    Floats yes, no;
    template <class Target>
    Shares(Target& target, const Weights::Row& weight, int64_t k, int count) {
        const Floats t = target(k, count), v = weight(k, count);
        const Ints used = (numbered() < count) & (v != 0.0f);
        yes = used ? v * t : Floats{};
        no = used ? v * (1.0f - t) : Floats{};
    }
};

// 0 times infinity is 0: what has no share of a sum may be anything.
static inline Floats part(Floats share, Floats term) { return share == 0.0f ? Floats{} : share * term; }
static inline Floats quotient(Floats share, Floats term) { return share == 0.0f ? Floats{} : share / term; }

// sum * exp(peak), exact wherever that is.
struct LogSum {
    double peak = 0.0, sum = 0.0;
    void add(double other_peak, double other) {
        if (other == 0.0 || other_peak == -INF) return;
        if (sum == 0.0) {
            peak = other_peak;
            sum = other;
            return;
        }
        const double most = other_peak <= peak ? peak : other_peak;  // NaN where the other is
        const auto at_most = [most](double of, double value) {
            return of == most ? value : value * std::exp(of - most);
        };
        sum = at_most(peak, sum) + at_most(other_peak, other);
        peak = most;
    }
    void add(const LogSum& other) { add(other.peak, other.sum); }
};

struct BothSums {
    LogSum yes, no;
    void add(const BothSums& other) {
        yes.add(other.yes);
        no.add(other.no);
    }
};

// Whether a sum of floats has all its digits: no term overflowed, and what went under is nothing beside it.
static inline bool is_exact(float sum, Floats shares) {
    return (sum > 1e-25f && sum < INF) || across(shares, add) == 0.0f;
}

// The same in double, whatever the exponentials; rarely, and so not in the midst of the others' registers.
template <class Target>
[[gnu::noinline]] static void add_block_exactly(
    BothSums& sums, const Numbers<float>& logits, float scale, Target target, const Weights::Row& weight, int64_t begin,
    int64_t end) {
    in_steps(begin, end, [&](int64_t k, int count) {
        const Shares share(target, weight, k, count);
        const Doubles x = double(scale) * doubles(logits(k, count));
        for (int i = 0; i < count; ++i) {
            sums.yes.add(-x[i], share.yes[i]);
            sums.no.add(x[i], share.no[i]);
        }
    });
}

template <class Target>
static inline void add_block(BothSums& sums, const Numbers<float>& logits, float scale, Target& target,
                             const Weights::Row& weight, int64_t begin, int64_t end) {
    Floats yes{}, no{}, yes_shares{}, no_shares{};
    const Target again = target;
    in_steps(begin, end, [&](int64_t k, int count) {
        const Shares share(target, weight, k, count);
        const Floats e = exponential(scale * logits(k, count));
        yes += quotient(share.yes, e);
        no += part(share.no, e);
        yes_shares += share.yes;
        no_shares += share.no;
    });
    const float yes_sum = across(yes, add), no_sum = across(no, add);
    if (!is_exact(yes_sum, yes_shares) || !is_exact(no_sum, no_shares))
        return add_block_exactly(sums, logits, scale, again, weight, begin, end);
    sums.yes.add(0.0, yes_sum);
    sums.no.add(0.0, no_sum);
}

// The log of a sum, and its peak and 1 / sum as floats, the peak 0 unless an exponential overflows without one.
static inline void write(const LogSum& side, float& log_sum, float* kept) {
    double sum = side.sum;
    float peak = float(side.peak);
    if (!(sum > 1e-15 && sum < 1e15) && sum > 0.0 && sum < INF) peak = float(side.peak + std::log(sum));
    if (peak != side.peak) sum *= std::exp(side.peak - peak);
    log_sum = peak + std::log(float(sum));
    kept[0] = peak;
    kept[1] = sum == 0.0 ? 0.0f : float(1.0 / sum);
}

// The labels of a call, in consecutive pools.
struct Labels {
    const float* logits;
    int64_t count, size;
    float scale;
    Weights weights;
    int64_t pools() const { return (count + size - 1) / size; }
    int64_t end(int64_t pool) const { return std::min((pool + 1) * size, count); }
    Numbers<float> row(int64_t pool) const { return {logits + pool * size, logits + count}; }
};

// Some labels of a pool, begin to end in it; its worker has yet to write all from there up to `limit` of all labels.
struct Piece {
    int64_t pool, begin, end, limit;
};

// Do done(pool, the sum of what work(piece) gives for its pieces): pools by threads, or where those are few, pieces.
template <class Work, class Done>
static void over_pools(const Labels& labels, int64_t threads, Work work, Done done) {
    if (labels.pools() >= threads)
        return in_parallel(labels.pools(), labels.size, threads, [&](int64_t first, int64_t last, int64_t) {
            const int64_t limit = labels.end(last - 1);
            for (int64_t pool = first; pool < last; ++pool)
                done(pool, work(Piece{pool, 0, labels.end(pool) - pool * labels.size, limit}));
        });
    for (int64_t pool = 0; pool < labels.pools(); ++pool) {
        const int64_t start = pool * labels.size;
        std::vector<decltype(work(Piece{}))> parts(threads);
        in_parallel(labels.end(pool) - start, 1, threads, [&](int64_t begin, int64_t end, int64_t worker) {
            parts[worker] = work(Piece{pool, begin, end, start + end}); });
        for (int64_t worker = 1; worker < threads; ++worker) parts[0].add(parts[worker]);
        done(pool, parts[0]);
    }
}

template <class Targets>
static void sum_labels(const Labels& labels, const Targets& targets, float* log_sums, float* kept, int64_t threads) {
    over_pools(labels, threads, [&](const Piece& piece) {
        const Numbers<float> row = labels.row(piece.pool);
        const auto weight = labels.weights.row(piece.pool);
        auto target = targets.row(piece.pool, piece.begin);
        BothSums sums;
        for (int64_t k = piece.begin; k < piece.end; k += BLOCK)
            add_block(sums, row, labels.scale, target, weight, k, std::min(k + BLOCK, piece.end));
        return sums;
    }, [&](int64_t pool, const BothSums& sums) {
        write(sums.yes, log_sums[2 * pool], kept + 4 * pool);
        write(sums.no, log_sums[2 * pool + 1], kept + 4 * pool + 2);
    });
}

struct Nothing {
    void add(Nothing) {}
};

// upstream * scale * each label's part of its sums, 0 where nothing flows back.
template <class Targets>
static void differentiate_labels(const Labels& labels, const Targets& targets, const float* kept, const float* upstream,
                                float* gradient, int64_t threads) {
    over_pools(labels, threads, [&](const Piece& piece) {
        const float *of_yes = kept + 4 * piece.pool, *of_no = of_yes + 2, *up = upstream + 2 * piece.pool;
        const auto slope = [&](float up, float inverse) {
            return up == 0.0f || inverse == 0.0f ? 0.0f : up * inverse * labels.scale;
        };
        const float to_yes = -slope(up[0], of_yes[1]), to_no = slope(up[1], of_no[1]);
        const double scale = labels.scale, yes_peak = of_yes[0], no_peak = of_no[0];
        const Numbers<float> row = labels.row(piece.pool);
        const auto weight = labels.weights.row(piece.pool);
        auto target = targets.row(piece.pool, piece.begin);
        const auto write = [&](auto gradient_of) {
            float* out = gradient + piece.pool * labels.size + piece.begin;
            write_row(piece.end - piece.begin, out, gradient + piece.limit, [&](int64_t from, int count) {
                const int64_t k = piece.begin + from;
                const Shares share(target, weight, k, count);
                return gradient_of(row(k, count), to_yes * share.yes, to_no * share.no);
            });
        };
        if (yes_peak == 0.0 && no_peak == 0.0)
            write([&](Floats logits, Floats yes, Floats no) {
                const Floats e = exponential(labels.scale * logits);
                return part(no, e) + quotient(yes, e);
            });
        else
            write([&](Floats logits, Floats yes, Floats no) {
                const Doubles x = scale * doubles(logits);
                return part(no, exponential(floats(x - no_peak))) + part(yes, exponential(floats(-x - yes_peak)));
            });
        return Nothing{};
    }, [](int64_t, Nothing) {});
}

// The targets: 0 float, 1 int64, 2 bool, each (count,), or 3 the positives of each pool in order (pools, most), int64.
template <class Call>
static void with_targets(const Labels& labels, const void* target, int64_t kind, int64_t most, Call call) {
    const auto valued = [&](auto* table) {
        call(Valued<std::remove_const_t<std::remove_pointer_t<decltype(table)>>>{
            table, table + labels.count, labels.size});
    };
    switch (kind) {
        case 0: return valued(static_cast<const float*>(target));
        case 1: return valued(static_cast<const int64_t*>(target));
        case 2: return valued(static_cast<const uint8_t*>(target));
        case 3: return call(Named{static_cast<const int64_t*>(target), most});
    }
}

static Labels labels_of(const float* logits, int64_t count, int64_t size, double scale, const float* weight,
                        int64_t stride, int64_t step) {
    const int64_t pools = (count + size - 1) / size;
    const int64_t read = stride == size ? count : (pools - 1) * stride + (size - 1) * step + 1;
    return {logits, count, size, float(scale), {weight, weight + read, stride, step}};
}

extern "C" int64_t equilog_label_sums_forward(
    const float* logits, int64_t count, int64_t size, double scale, const void* target, int64_t kind, int64_t most,
    const float* weight, int64_t stride, int64_t step, float* log_sums, float* kept, int64_t threads) try {
    const Labels labels = labels_of(logits, count, size, scale, weight, stride, step);
    with_targets(labels, target, kind, most, [&](const auto& targets) {
        sum_labels(labels, targets, log_sums, kept, threads); });
    return 0;
} catch (...) {
    return failure();
}

extern "C" int64_t equilog_label_sums_backward(
    const float* logits, int64_t count, int64_t size, double scale, const void* target, int64_t kind, int64_t most,
    const float* weight, int64_t stride, int64_t step, const float* kept, const float* upstream, float* gradient,
    int64_t threads) try {
    const Labels labels = labels_of(logits, count, size, scale, weight, stride, step);
    with_targets(labels, target, kind, most, [&](const auto& targets) {
        differentiate_labels(labels, targets, kept, upstream, gradient, threads); });
    return 0;
} catch (...) {
    return failure();
}

// The logs of one plus both sums of each pool, that of the positives times `yes_weight`, added up: `result` is the value
// of each pool or, with `is_mean`, that of all. Kept are four numbers of each pool, what flows back from there to its two
// log sums, and 1 / the units.
extern "C" int64_t equilog_label_logs_forward(
    const float* logits, int64_t count, int64_t size, double scale, const void* target, int64_t kind, int64_t most,
    const float* weight, int64_t stride, int64_t step, double yes_weight, int64_t is_mean, double units,
    const double* samples, double samples_of_all, float* result, float* kept, int64_t threads) try {
    const Labels labels = labels_of(logits, count, size, scale, weight, stride, step);
    const int64_t pools = labels.pools();
    float* const slopes = kept + 4 * pools;  // the log sums, until the slopes are in their place
    with_targets(labels, target, kind, most, [&](const auto& targets) {
        sum_labels(labels, targets, slopes, kept, threads); });
    Mean mean({units, samples, samples_of_all}, threads);
    in_parallel(pools, size, threads, [&](int64_t first, int64_t last, int64_t worker) {
        for (int64_t pool = first; pool < last; ++pool) {
            OfPool of_pool;
            for (int side = 0; side < 2; ++side) {
                float& slope = slopes[2 * pool + side];
                const double factor = side == 0 ? yes_weight : 1.0;
                const LogMass log_mass(slope, 1.0);
                of_pool.add(log_mass.value, factor, 1.0, slope > 0.5f * LOWEST);
                slope = float(factor * log_mass.slope);
            }
            if (is_mean) mean.add(worker, pool, of_pool);
            else result[pool] = float(of_pool.value);
        }
    });
    if (is_mean) mean.write(result, kept + 6 * pools);
    return 0;
} catch (...) {
    return failure();
}

extern "C" int64_t equilog_label_logs_backward(
    const float* logits, int64_t count, int64_t size, double scale, const void* target, int64_t kind, int64_t most,
    const float* weight, int64_t stride, int64_t step, const float* kept, int64_t is_mean, const float* upstream,
    float* gradient, int64_t threads) try {
    const Labels labels = labels_of(logits, count, size, scale, weight, stride, step);
    const int64_t pools = labels.pools();
    const Flow flow(upstream, is_mean ? kept + 6 * pools : nullptr);
    std::vector<float> flows(2 * pools);
    for (int64_t i = 0; i < 2 * pools; ++i) flows[i] = flow(i / 2) * kept[4 * pools + i];
    with_targets(labels, target, kind, most, [&](const auto& targets) {
        differentiate_labels(labels, targets, kept, flows.data(), gradient, threads); });
    return 0;
} catch (...) {
    return failure();
}
