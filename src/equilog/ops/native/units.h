// What the pools of a call cost, and their mean: the sum of all logs over that of the pools' units, where a unit is the
// larger of the samples of the pool and the logs that hold something.
#pragma once
#include "numbers.h"

// A sum total * exp(peak): its log mass log(1 + sum), and exp(peak) / (1 + sum), by which a term relative to the peak
// becomes the slope of that. The peak is a number.
struct LogMass {
    double value, slope;
    LogMass(double peak, double total) {
        const double small = std::exp(-std::abs(peak));
        const double denominator = peak > 0.0 ? small + total : 1.0 / small + total;
        value = peak > 0.0 ? std::log(denominator) + peak : std::log1p(total * small);
        slope = 1.0 / denominator;
    }
};

struct OfPool {
    double value = 0.0, logs = 0.0;
    // A log and its weight, and by how much it counts among the logs where it holds something.
    void add(double log_mass, double weight, double count, bool holds) {
        value += weight == 0.0 ? 0.0 : weight * log_mass;
        logs += holds ? count : 0.0;
    }
};

// The sum of all units where it is known, else minus infinity; then the samples of each pool, or of every pool.
struct Units {
    double known;
    const double* samples;
    double samples_of_all;
};

// What each thread has seen, added up in the order of the threads.
struct Mean {
    Units units;
    std::vector<OfPool> sums;
    Mean(Units units, int64_t threads) : units(units), sums(threads) {}
    void add(int64_t worker, int64_t pool, const OfPool& of_pool) {
        sums[worker].value += of_pool.value;
        sums[worker].logs += std::max(units.samples ? units.samples[pool] : units.samples_of_all, of_pool.logs);
    }
    void write(float* mean, float* inverse) const {
        constexpr double LEAST = std::numeric_limits<float>::min();
        OfPool all;
        for (const OfPool& sum : sums) all.value += sum.value, all.logs += sum.logs;
        const double divisor = std::max(units.known == -INF ? all.logs : units.known, LEAST);
        *mean = float(all.value / divisor);
        *inverse = float(1.0 / divisor);
    }
};

// What flows back to the value of each pool: by itself, or through the mean, of which 1 / the units is here.
struct Flow {
    const float* upstream;
    float of_all;
    bool is_mean;
    Flow(const float* upstream, const float* inverse)
        : upstream(upstream), of_all(inverse ? *upstream * *inverse : 0.0f), is_mean(inverse != nullptr) {}
    float operator()(int64_t pool) const { return is_mean ? of_all : upstream[pool]; }
};
