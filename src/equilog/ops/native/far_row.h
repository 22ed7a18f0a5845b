// The odds against each class of a set, and their gradient, in doubles: for the few sets that floats cannot hold.
#pragma once
#include "numbers.h"

constexpr double FAR = 600.0;  // logarithms whose exponentials, and sums of many of them, are normal doubles

struct FarRow {
    const float *scores, *target;
    int64_t classes;
    double log_weight, weight;
    double most = -INF;
    double rest = 0.0, tops = 0.0;  // the sum of exponentials relative to the largest, and how often that occurs

    FarRow(const float* scores, const float* target, int64_t classes, float log_weight)
        : scores(scores), target(target), classes(classes), log_weight(log_weight),
          weight(std::exp(double(log_weight))) {
        for (int64_t k = 0; k < classes; ++k) most = std::max(most, double(scores[k]));
        for (int64_t k = 0; k < classes; ++k) (is_top(k) ? tops : rest) += std::exp(scores[k] - most);
    }
    bool is_top(int64_t k) const { return scores[k] == most; }
    double total() const { return rest + tops; }
    double complement(int64_t k) const {
        // Of the largest the others' sum: a difference would lose it.
        return is_top(k) ? rest + (tops - 1.0) : total() - std::exp(scores[k] - most);
    }

    // Whether doubles hold what is asked for; else logarithms must step in.
    bool is_held() const {
        if (!(std::abs(log_weight) < FAR && std::abs(most) < INF && rest < INF)) return false;
        double next = -INF;
        for (int64_t k = 0; k < classes; ++k) {
            if (target[k] != 0.0f && !(scores[k] - most > -FAR)) return false;
            if (!is_top(k)) next = std::max(next, double(scores[k]));
        }
        return next == -INF || next - most > -FAR;
    }
    void add_odds(double* sums) const {
        for (int64_t k = 0; k < classes; ++k)
            if (target[k] != 0.0f) sums[k] += weight * target[k] * complement(k) * std::exp(most - scores[k]);
    }
    void gradient(const float* log_sums, const float* upstream, float* out) const {
        std::vector<double> flow(classes, 0.0);
        double flow_of_rest = 0.0, flow_of_tops = 0.0;
        for (int64_t k = 0; k < classes; ++k) {
            if (target[k] != 0.0f && upstream[k] != 0.0f && log_sums[k] != -INF)
                flow[k] = upstream[k] * weight * target[k] * total() * std::exp((most - scores[k]) - log_sums[k]);
            (is_top(k) ? flow_of_tops : flow_of_rest) += flow[k];
        }
        for (int64_t k = 0; k < classes; ++k) {
            const double share = std::exp(scores[k] - most) / total();
            out[k] = float(
                is_top(k) ? share * (flow_of_rest + (flow_of_tops - flow[k])) - flow[k] * complement(k) / total()
                          : share * (flow_of_rest + flow_of_tops) - flow[k]);
        }
    }
};
