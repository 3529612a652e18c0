// forward over rows in which the channels lie side by side: channels_last, (N, C), channel_dim = -1.
#ifndef BATCHNORM_FORWARD_ROWS_H
#define BATCHNORM_FORWARD_ROWS_H

#include "forward.h"

namespace BN_ISA {

// The share of a thread in folded rows, and the rows of the tensor that this is.
struct RowsPart {
  int64_t begin, end;  // whole folded rows
  bool leftover;
  Part part;
};

static inline RowsPart rows_part(const bn_call &call, const RowsPlan &plan, int thread, int threads) {
  RowsPart rows;
  rows.begin = plan.by_columns ? 0 : share(plan.rows, thread, threads);
  rows.end = plan.by_columns ? plan.rows : share(plan.rows, thread + 1, threads);
  rows.leftover = plan.leftover > 0 && thread == threads - 1;
  rows.part = {0, call.channels, rows.begin * plan.fold, rows.leftover ? call.outer : rows.end * plan.fold, 0, 1};
  if (plan.by_columns) {
    int64_t blocks = (call.channels + plan.block - 1) / plan.block;
    rows.part.channel_begin = least(call.channels, share(blocks, thread, threads) * plan.block);
    rows.part.channel_end = least(call.channels, share(blocks, thread + 1, threads) * plan.block);
  }
  return rows;
}

// Call body(first, rows) for the whole rows, of which it starts at the first, and for the part of one that is left over.
template <class Body> static void for_rows(const RowsPlan &plan, const RowsPart &rows, int64_t width, Body body) {
  body(rows.begin, Rows{rows.end - rows.begin, plan.width, width, plan.along});
  if (rows.leftover) body(plan.rows, Rows{1, plan.width, plan.leftover, false});
}

// The same in blocks from the last to the first: what was read last is still near.
template <class Body> static void for_rows_backwards(const RowsPlan &plan, const RowsPart &rows, int64_t width, Body body) {
  if (rows.leftover) body(plan.rows, Rows{1, plan.width, plan.leftover, false});
  const int64_t block = most(4, (1 << 14) / width / 4 * 4);
  for (int64_t end = rows.end; end > rows.begin;) {
    const int64_t begin = most(rows.begin, end - block);
    body(begin, Rows{end - begin, plan.width, width, plan.along});
    end = begin;
  }
}

template <class T> class RowsMoments {
 public:
  using S = Compute<T>;
  RowsMoments(const bn_call &call, const RowsPlan &plan, const RowsPart &rows, const Anchors &anchors, double count,
              Pieces &pieces)
      : call_(call), plan_(plan), rows_(rows), anchors_(anchors), count_(count),
        width_(plan.by_columns ? plan.block : plan.width), rough_(pieces.take<S>(width_)),
        sum_a_(pieces.take<double>(width_)), sum_b_(pieces.take<double>(width_)) {}
  static int64_t bytes(const RowsPlan &plan) {
    int64_t width = plan.by_columns ? plan.block : plan.width;
    return Pieces::bytes<S>(width) + 2 * Pieces::bytes<double>(width);
  }

  // Moments of channels [begin, end) over this part, into found[0 ...].
  void find(int64_t begin, int64_t end, PartialMoments *found) {
    for (int64_t c = begin; c < end; ++c) found[c - begin] = {0, 0, 0};
    if (count_ == 0) return;
    start_from_anchors(begin, end);
    sum(begin, end);
    bool again = false;
    for (int64_t c = begin; c < end; ++c)
      again |= judged_channel(c, begin, end, found[c - begin]) == Verdict::far_from_mean;
    if (again) {
      for (int64_t c = begin; c < end; ++c)
        if (is_finite(double(S(found[c - begin].mean)))) rough_[c - begin] = S(found[c - begin].mean);
      repeat_folds(end - begin);
      sum(begin, end);
    }
    for (int64_t c = begin; c < end; ++c)
      if (judged_channel(c, begin, end, found[c - begin]) == Verdict::out_of_range)
        found[c - begin] = wide_moments<T>(call_, c, rows_.part);
  }

 private:
  void start_from_anchors(int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) rough_[c - begin] = 0;
    const S share_of_each = S(1.0 / anchors_.count);
    for (int i = 0; i < anchors_.count; ++i) {
      const T *row = (const T *)call_.x + anchors_.outer[i] * call_.channels + begin;
      for_vectors<S>(end - begin, [&](int64_t at, auto lanes) __attribute__((always_inline)) {
        Vector<S> so_far = load(rough_ + at, lanes, Vector<S>{});
        store(rough_ + at, fma(load(row + at, lanes, Vector<S>{}), splat(share_of_each), so_far), lanes);
      });
    }
    repeat_folds(end - begin);
  }

  void repeat_folds(int64_t channels) {
    for (int64_t at = channels; at < channels * plan_.fold; ++at) rough_[at] = rough_[at - channels];
  }

  void sum(int64_t begin, int64_t end) {
    const int64_t width = (end - begin) * plan_.fold;
    for (int64_t at = 0; at < width; ++at) sum_a_[at] = sum_b_[at] = 0;
    for_rows(plan_, rows_, width, [&](int64_t row, const Rows &part) {
      moments_rows((const T *)call_.x + row * plan_.width + begin, call_.mask ? call_.mask + row : nullptr, part,
                   rough_, sum_a_, sum_b_);
    });
  }

  Verdict judged_channel(int64_t channel, int64_t begin, int64_t end, PartialMoments &found) {
    double a = 0, b = 0;
    for (int64_t k = 0; k < plan_.fold; ++k) {
      a += sum_a_[k * (end - begin) + channel - begin];
      b += sum_b_[k * (end - begin) + channel - begin];
    }
    return judged(call_, count_, double(rough_[channel - begin]), a, b, found);
  }

  const bn_call &call_;
  const RowsPlan &plan_;
  const RowsPart &rows_;
  const Anchors &anchors_;
  const double count_;
  const int64_t width_;
  S *rough_;
  double *sum_a_, *sum_b_;
};

template <class T> static int forward_rows(const bn_call &call, ForwardSteps steps, const NormalizeKernels<T> &kernels) {
  using S = Compute<T>;
  const int asked = useful_threads(call);
  const RowsPlan plan = rows_plan(call, sizeof(T), kLanes<S>, tensors_of(call, steps), steps.statistics && steps.output, asked);
  const int64_t each = RowsMoments<T>::bytes(plan), for_moments = Pieces::bytes<PartialMoments>(call.channels);
  const bool few = call.channels <= kFewChannels;
  const int64_t for_numbers = Numbers<S>::bytes(plan.width);
  Scratch scratch(asked * (each + for_moments) + (few ? asked : 1) * for_numbers);
  if (!scratch.memory()) return -1;
  char *const partial = scratch.memory() + asked * each, *const for_all = partial + asked * for_moments;
  const double momentum = steps.statistics ? begin_batch(call) : 0.0;

  on_team(asked, [&](int thread, int threads) {
    const RowsPart rows = rows_part(call, plan, thread, threads);
    Pieces pieces(scratch.memory() + thread * each);
    const Anchors anchors = steps.statistics ? find_anchors(call, rows.part) : Anchors{};
    const double count = steps.statistics ? double(valid_positions(call, rows.part)) : 0.0;
    RowsMoments<T> moments(call, plan, rows, anchors, count, pieces);
    Pieces of_thread(for_all + (few ? thread * for_numbers : 0));
    Numbers<S> numbers(of_thread, plan.width);
    numbers.place(call, sizeof(T), tensors_of(call, steps));
    auto found_by = [&](int who) { return (PartialMoments *)(partial + who * for_moments); };
    auto set_numbers = [&](int64_t begin, int64_t end, int parts, bool writes) {
      for (int64_t c = begin; c < end; ++c) {
        double mean = 0, invstd = 0;
        if (steps.statistics) {
          PartialMoments batch = found_by(parts == 1 ? thread : 0)[c];
          for (int who = 1; who < parts; ++who) batch = merged(batch, found_by(who)[c]);
          mean = batch.mean;
          invstd = invstd_of(call, batch);
          if (writes) finish_moments(call, c, batch, momentum, invstd);
        } else {
          mean = call.mean[c];
          invstd = call.invstd[c];
        }
        numbers.set(call, c, c, mean, invstd);
      }
      numbers.repeat(begin, end, call.channels, plan.fold);
    };
    auto normalize = [&](int64_t begin, int64_t end) {
      for_rows_backwards(plan, rows, (end - begin) * plan.fold, [&](int64_t row, const Rows &part) {
        const int64_t from = row * plan.width + begin;
        kernels.rows((const T *)call.x + from, call.second ? (const T *)call.second + from : nullptr,
                     call.mask ? call.mask + row : nullptr, (T *)call.output + from, part, numbers, begin,
                     S(call.act_parameter));
      });
    };
    if (plan.by_columns) {
      for (int64_t begin = rows.part.channel_begin; begin < rows.part.channel_end; begin += plan.block) {
        const int64_t end = least(begin + plan.block, rows.part.channel_end);
        if (steps.statistics) moments.find(begin, end, found_by(thread) + begin);
        set_numbers(begin, end, 1, true);
        if (steps.output) normalize(begin, end);
      }
      return;
    }
    if (steps.statistics) {
      moments.find(0, call.channels, found_by(thread));
      wait_for_team(threads);
    }
    if (few) {
      set_numbers(0, call.channels, threads, thread == 0);
    } else {
      set_numbers(share(call.channels, thread, threads), share(call.channels, thread + 1, threads), threads, true);
      wait_for_team(threads);
    }
    if (steps.output) normalize(0, call.channels);
  });
  return 0;
}

}  // namespace BN_ISA
#endif
