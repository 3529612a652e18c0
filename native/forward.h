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

// Values a channel in the whole call; counts the batch, so it runs once.
static inline double begin_batch(const bn_call &call, double &momentum) {
  const Part whole = {0, call.channels, 0, call.outer, 0, call.inner};
  double count = double(valid_positions(call, whole));
  if (call.count) *call.count = count;
  momentum = tick(call, count);
  return count;
}

// Contiguous inner positions: (N, C, *spatial).

template <class T> class PlanesMoments {
 public:
  using S = Compute<T>;
  PlanesMoments(const bn_call &call, const Part &part, Pieces &pieces, int64_t channels)
      : call_(call), part_(part), anchors_(find_anchors(call, part)), count_(double(valid_positions(call, part))),
        sums_(pieces.take<PairOfSums<S>>(channels)), rough_(pieces.take<S>(channels)) {}
  static int64_t bytes(int64_t channels) {
    return Pieces::bytes<PairOfSums<S>>(channels) + Pieces::bytes<S>(channels);
  }

  void find(int64_t begin, int64_t end, PartialMoments *found) {
    for (int64_t c = begin; c < end; ++c) {
      rough_[c - begin] = rough_mean<T>(call_, c, anchors_);
      sums_[c - begin].clear();
    }
    for (int64_t outer = part_.outer_begin; outer < part_.outer_end; ++outer)
      for (int64_t c = begin; c < end; ++c) add(outer, c, rough_[c - begin], sums_[c - begin]);
    for (int64_t c = begin; c < end; ++c) found[c - begin] = settled(c, rough_[c - begin], sums_[c - begin]);
  }

 private:
  void add(int64_t outer, int64_t channel, S rough, PairOfSums<S> &sums) {
    moments_run((const T *)call_.x + (outer * call_.channels + channel) * call_.inner + part_.inner_begin,
                call_.mask ? call_.mask + outer * call_.inner + part_.inner_begin : nullptr,
                part_.inner_end - part_.inner_begin, rough, sums);
  }

  PartialMoments settled(int64_t channel, S rough, PairOfSums<S> &sums) {
    PartialMoments result = {0, 0, 0};
    if (count_ == 0) return result;
    sums.flush();
    Verdict verdict = judged(call_, count_, rough, total(sums.wide_a), total(sums.wide_b), result);
    if (verdict == Verdict::far_from_mean) {
      rough = S(result.mean);
      sums.clear();
      for (int64_t outer = part_.outer_begin; outer < part_.outer_end; ++outer) add(outer, channel, rough, sums);
      sums.flush();
      verdict = judged(call_, count_, rough, total(sums.wide_a), total(sums.wide_b), result);
    }
    return verdict == Verdict::out_of_range ? wide_moments<T>(call_, channel, part_) : result;
  }

  const bn_call &call_;
  const Part part_;
  const Anchors anchors_;
  const double count_;
  PairOfSums<S> *sums_;
  S *rough_;
};

template <class T> static int forward_planes(const bn_call &call, ForwardSteps steps, const NormalizeKernels<T> &kernels) {
  using S = Compute<T>;
  const int asked = useful_threads(call);
  const int64_t group = planes_group(call, sizeof(T), tensors_of(call, steps));
  const Split split = planes_split(call, asked);
  const bool alone = split == Split::channels;  // no other thread has values of this one's channels
  const int64_t widest = alone ? group : call.channels;
  const int64_t each = Numbers<S>::bytes(widest) + PlanesMoments<T>::bytes(widest);
  const int64_t for_moments = Pieces::bytes<PartialMoments>(call.channels);
  Scratch scratch(asked * (each + for_moments));
  if (!scratch.memory()) return -1;
  char *const partial = scratch.memory() + asked * each;
  double momentum = 0;
  if (steps.statistics) begin_batch(call, momentum);

  on_team(asked, [&](int thread, int threads) {
    const Part part = planes_part(call, split, thread, threads);
    Pieces pieces(scratch.memory() + thread * each);
    Numbers<S> numbers(pieces, widest);
    PlanesMoments<T> moments(call, part, pieces, widest);
    for (int64_t begin = part.channel_begin; begin < part.channel_end; begin += widest) {
      const int64_t end = least(begin + widest, part.channel_end);
      auto found_by = [&](int who) { return (PartialMoments *)(partial + who * for_moments); };
      if (steps.statistics) {
        moments.find(begin, end, found_by(thread) + begin);
        if (!alone) wait_for_team(threads);
      }
      for (int64_t c = begin; c < end; ++c) {
        double mean = 0, invstd = 0;
        if (steps.statistics) {
          PartialMoments batch = found_by(alone ? thread : 0)[c];
          for (int who = 1; !alone && who < threads; ++who) batch = merged(batch, found_by(who)[c]);
          if (alone || thread == 0) finish_moments(call, c, batch, momentum);
          mean = batch.mean;
          invstd = 1 / __builtin_sqrt((batch.count > 0 ? batch.squares / batch.count : 0.0) + call.eps);
        } else {
          mean = call.mean[c];
          invstd = call.invstd[c];
        }
        numbers.set(call, c, c - begin, mean, invstd);
      }
      if (!steps.output) continue;
      for (int64_t outer = part.outer_end; outer-- > part.outer_begin;)  // backwards: what was read last is still near
        for (int64_t c = end; c-- > begin;) {
          const int64_t from = (outer * call.channels + c) * call.inner + part.inner_begin;
          kernels.run((const T *)call.x + from, call.second ? (const T *)call.second + from : nullptr,
                      call.mask ? call.mask + outer * call.inner + part.inner_begin : nullptr, (T *)call.output + from,
                      part.inner_end - part.inner_begin, numbers, c - begin, S(call.act_parameter));
        }
    }
  });
  return 0;
}

}  // namespace BN_ISA
#endif
