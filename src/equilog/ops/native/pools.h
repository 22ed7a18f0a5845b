// Sums over consecutive rows: a table of doubles for each pool, of every thread that has rows of it.
#pragma once
#include <atomic>

#include "numbers.h"

// How many rows fit the first-level cache with what is made of them.
constexpr int64_t SCRATCH = 1 << 10, MOST_ROWS = SCRATCH / WIDTH;
static inline int64_t rows_at_once(int64_t columns) { return std::max(SCRATCH / padded(columns), int64_t{1}); }

// The vectors that make up a row: their number, or 0 where it is not known beforehand.
template <int KNOWN>
struct Columns {
    int64_t count;
    template <class What>
    __attribute__((always_inline)) void in_steps(What what) const {
        if constexpr (KNOWN > 0) {
            for (int64_t v = 0; v < KNOWN - 1; ++v) what(v * WIDTH, WIDTH);
            what((KNOWN - 1) * WIDTH, int(count) - (KNOWN - 1) * WIDTH);
        } else {
            ::in_steps(0, count, what);
        }
    }
};

template <class Work>
static auto with_columns(int64_t count, Work work) {
    switch (padded(count) / WIDTH) {
        case 1: return work(Columns<1>{count});
        case 2: return work(Columns<2>{count});
        default: return work(Columns<0>{count});
    }
}

// Add up each pool of `size` consecutive rows with add(first row, last, sums, scratch), a few rows at a time, with
// scratch of as many numbers, and give the sums to done(pool, sums). Where there are few pools, their rows are shared
// out among the threads, and the threads' sums added up in the order of the rows. Stops and returns false where one of
// the two does.
template <class Add, class Done>
static bool sum_by_pool(int64_t rows, int64_t size, int64_t columns, int64_t threads, Add add, Done done) {
    const int64_t pools = (rows + size - 1) / size, width = padded(columns), few = rows_at_once(columns);
    const bool many = pools >= threads;
    const int64_t helpers = many ? 1 : threads;
    std::atomic<bool> going{true};
    in_parallel(many ? pools : 1, size * columns, many ? threads : 1, [&](int64_t first, int64_t last, int64_t) {
        std::vector<double> sums(helpers * width);
        std::vector<float> scratch(helpers * few * width);
        for (int64_t pool = many ? first : 0; pool < (many ? last : pools) && going; ++pool) {
            const int64_t start = pool * size, count = std::min(size, rows - start);
            std::fill(sums.begin(), sums.end(), 0.0);
            in_parallel(count, columns, helpers, [&](int64_t begin, int64_t end, int64_t worker) {
                double* partial = &sums[worker * width];
                float* more = &scratch[worker * few * width];
                for (int64_t i = begin; i < end && going; i += few)
                    if (!add(start + i, start + std::min(i + few, end), partial, more)) going = false;
            });
            for (int64_t worker = 1; worker < helpers; ++worker)
                for (int64_t k = 0; k < columns; ++k) sums[k] += sums[worker * width + k];
            if (going && !done(pool, sums.data())) going = false;
        }
    });
    return going;
}
