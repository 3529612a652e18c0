// forward: moments, then normalize while the channel is still in the cache; each is also run alone.
#ifndef BATCHNORM_FORWARD_H
#define BATCHNORM_FORWARD_H

#include "channels.h"
#include "geometry.h"
#include "moments.h"
#include "normalize.h"
#include "rows.h"

namespace BN_ISA {

// Which steps a call asks for.
struct ForwardSteps {
  bool statistics;  // else mean and invstd are given
  bool output;
};

static inline int tensors_of(const bn_call &call, ForwardSteps steps) {
  return 1 + (steps.output ? 1 : 0) + (call.second ? 1 : 0);
}

// The weight that the batch gets in the running statistics; counts it, so it runs once.
static inline double begin_batch(const bn_call &call) {
  const Part whole = {0, call.channels, 0, call.outer, 0, call.inner};
  double count = double(valid_positions(call, whole));
  if (call.count) *call.count = count;
  return tick(call, count);
}

// Contiguous inner positions: (N, C, *spatial).

static inline Runs runs_of(const bn_call &call, const Part &part) {
  return {part.outer_end - part.outer_begin, part.inner_end - part.inner_begin, call.channels * call.inner, call.inner};
}

// Where the runs of a channel begin, in values and in the mask.
static inline int64_t first_value(const bn_call &call, const Part &part, int64_t channel) {
  return (part.outer_begin * call.channels + channel) * call.inner + part.inner_begin;
}
static inline const uint8_t *first_mask(const bn_call &call, const Part &part) {
  return call.mask ? call.mask + part.outer_begin * call.inner + part.inner_begin : nullptr;
}

template <class T>
static PartialMoments moments_of_channel(const bn_call &call, const Part &part, double count, int64_t channel,
                                         Compute<T> rough) {
  PartialMoments result = {0, 0, 0};
  if (count == 0) return result;
  const T *x = (const T *)call.x + first_value(call, part, channel);
  const Runs runs = runs_of(call, part);
  auto around = [&](Compute<T> middle) {
    Sums sums = moments_runs(x, first_mask(call, part), runs, middle);
    return judged(call, count, double(middle), sums.a, sums.b, result);
  };
  Verdict verdict = around(rough);
  if (verdict == Verdict::far_from_mean) verdict = around(Compute<T>(result.mean));
  return verdict == Verdict::out_of_range ? wide_moments<T>(call, channel, part) : result;
}

// Small channels go through each step together: what a channel costs beside its values (a rough mean, merging, roots and
// quotients) is a chain of instructions that wait for each other, and the chains of several channels run at once.
constexpr int64_t kBlockBytes = 24 << 10;  // read, and still in the first-level cache for the next step

static inline int64_t channels_of_block(const bn_call &call, int64_t value_bytes, int tensors_read) {
  return most(1, least(16, kBlockBytes / most(1, call.outer * call.inner * value_bytes * tensors_read)));
}

constexpr int64_t kLongRun = 96;  // bytes

// With given statistics nothing holds a channel together: long runs are taken in the order of memory.
template <class T> static int normalize_in_order(const bn_call &call, ForwardSteps steps, const NormalizeKernels<T> &kernels) {
  using S = Compute<T>;
  Scratch scratch(Numbers<S>::bytes(call.channels));
  if (!scratch.memory()) return -1;
  Pieces pieces(scratch.memory());
  Numbers<S> numbers(pieces, call.channels);
  numbers.place(call, sizeof(T), tensors_of(call, steps));
  for (int64_t c = 0; c < call.channels; ++c) numbers.set(call, c, c, call.mean[c], call.invstd[c]);
  on_team(useful_threads(call), [&](int thread, int threads) {
    const int64_t runs = call.outer * call.channels, last = share(runs, thread + 1, threads);
    for (int64_t at = share(runs, thread, threads); at < last;) {
      const int64_t from = at * call.inner, channel = at % call.channels;
      const Runs of_sample = {least(last - at, call.channels - channel), call.inner, call.inner, 0};
      kernels.in_order((const T *)call.x + from, call.second ? (const T *)call.second + from : nullptr,
                       call.mask ? call.mask + at / call.channels * call.inner : nullptr, (T *)call.output + from,
                       of_sample, numbers, channel, S(call.act_parameter));
      at += of_sample.count;
    }
  });
  return 0;
}

template <class T> static int forward_planes(const bn_call &call, ForwardSteps steps, const NormalizeKernels<T> &kernels) {
  using S = Compute<T>;
  const int asked = useful_threads(call);
  if (!steps.statistics && call.inner * int64_t(sizeof(T)) >= kLongRun && call.outer * call.channels >= 4 * asked)
    return normalize_in_order<T>(call, steps, kernels);
  const Split split = planes_split(call, asked);
  const bool alone = split == Split::channels;  // no other thread has values of this one's channels
  const int64_t width = alone ? channels_of_block(call, sizeof(T), call.second ? 2 : 1) : call.channels;
  const int64_t each = Numbers<S>::bytes(width), for_moments = Pieces::bytes<PartialMoments>(width);
  Scratch scratch(asked * (each + for_moments));
  if (!scratch.memory()) return -1;
  char *const partial = scratch.memory() + asked * each;
  const double momentum = steps.statistics ? begin_batch(call) : 0.0;

  on_team(asked, [&](int thread, int threads) {
    const Part part = planes_part(call, split, thread, threads);
    const Runs runs = runs_of(call, part);
    Pieces pieces(scratch.memory() + thread * each);
    Numbers<S> numbers(pieces, width);
    numbers.place(call, sizeof(T), tensors_of(call, steps));
    const Anchors anchors = steps.statistics ? find_anchors(call, part) : Anchors{};
    const double count = steps.statistics ? double(valid_positions(call, part)) : 0.0;
    auto found_by = [&](int who) { return (PartialMoments *)(partial + who * for_moments); };
    auto find = [&](int64_t begin, int64_t end) {
      if (!steps.statistics) return;
      PartialMoments *found = found_by(thread);
      for (int64_t c = begin; c < end; ++c) found[c - begin].mean = rough_mean<T>(call, c, anchors);
      for (int64_t c = begin; c < end; ++c)
        found[c - begin] = moments_of_channel<T>(call, part, count, c, Compute<T>(found[c - begin].mean));
    };
    auto set_numbers = [&](int64_t c, int64_t at) {
      double mean = 0, invstd = 0;
      if (steps.statistics) {
        PartialMoments batch = found_by(alone ? thread : 0)[at];
        for (int who = 1; !alone && who < threads; ++who) batch = merged(batch, found_by(who)[at]);
        mean = batch.mean;
        invstd = invstd_of(call, batch);
        if (alone || thread == 0) finish_moments(call, c, batch, momentum, invstd);
      } else {
        mean = call.mean[c];
        invstd = call.invstd[c];
      }
      numbers.set(call, c, at, mean, invstd);
    };
    auto normalize = [&](int64_t c, int64_t at) {
      if (!steps.output) return;
      const int64_t from = first_value(call, part, c);
      kernels.runs((const T *)call.x + from, call.second ? (const T *)call.second + from : nullptr,
                   first_mask(call, part), (T *)call.output + from, runs, numbers, at, S(call.act_parameter));
    };
    if (alone) {
      for (int64_t begin = part.channel_begin; begin < part.channel_end; begin += width) {
        const int64_t end = least(begin + width, part.channel_end);
        find(begin, end);
        for (int64_t c = begin; c < end; ++c) set_numbers(c, c - begin);
        for (int64_t c = begin; c < end; ++c) normalize(c, c - begin);
      }
      return;
    }
    find(0, call.channels);
    wait_for_team(threads);
    for (int64_t c = 0; c < call.channels; ++c) set_numbers(c, c);
    for (int64_t c = call.channels; c-- > 0;) normalize(c, c);
  });
  return 0;
}

}  // namespace BN_ISA
#endif
