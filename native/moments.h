// moments: count, mean and squared deviations of values, always summed around a rough mean.
//
// Partial sums in the compute type are short and are merged in double. Where the rough mean turns out
// far from the mean the sums are taken again around the mean; where squares leave the range of float, in double.
#ifndef BATCHNORM_MOMENTS_H
#define BATCHNORM_MOMENTS_H

#include "channels.h"
#include "geometry.h"
#include "pairs.h"
#include "simd.h"

namespace BN_ISA {

constexpr int kAnchors = 16;

// One channel of (N, C, *spatial), or channels side by side of one sample: `count` runs of `length` values, `stride` apart
// (`mask_stride` in the mask).
struct Runs {
  int64_t count, length, stride, mask_stride;
};

// Two sums over values: short ones in the lanes of four vectors, long ones in double.
//
// Squares of numbers that end at some bit (a large mean leaves few bits) are 0 or 1 modulo 4 in units of the last one, so
// that rounding them off always loses: over 64 values that was 5e-7 of the variance, over 16 it is 1e-7.
template <class S> struct TwoSums {
  static constexpr int64_t kLongest = 16;  // values that a lane sums before they become doubles
  Two<Two<Vector<S>>> a{}, b{};
  vdouble wide_a[2] = {}, wide_b[2] = {};
  int64_t room = kLongest;

  BN_MEMBER void flush() {
    add_to(wide_a, (a.first.first + a.first.second) + (a.second.first + a.second.second));
    add_to(wide_b, (b.first.first + b.first.second) + (b.second.first + b.second.second));
    a = b = Two<Two<Vector<S>>>{};
    room = kLongest;
  }
  BN_MEMBER void take(int64_t values_a_lane) {
    if (values_a_lane > room) flush();
    room -= values_a_lane;
  }
};

struct Sums {
  double a, b;
};

// Where the values are that will be wanted after some 4 KB more, seen from a value of `run`: at the same place in a later
// run, or in one of the next channel. Runs lie far apart, and processors do not foresee where the next one begins.
struct Ahead {
  int64_t count, stride, next_channel, by;
  BN_MEMBER Ahead(const Runs &runs, int64_t value_bytes)
      : count(runs.count), stride(runs.stride), next_channel(runs.mask_stride),
        by(least(runs.count, 1 + 4096 / (runs.length * value_bytes + 1))) {}
  BN_MEMBER int64_t operator()(int64_t run) const {
    return run + by < count ? by * stride : (by - count) * stride + next_channel;
  }
  BN_MEMBER int64_t backwards(int64_t run) const {
    return run >= by ? -by * stride : (count - by) * stride + next_channel;
  }
};

// Call term(at, mask_at, lanes, a, b) for all values of the runs, where it adds to a and b; for four vectors at once, or for
// two, which keeps the adders busy. ask(at) prefetches what term would read.
template <class T, int kAtOnce, class Ask, class Term> BN_INLINE Sums sum_runs(const Runs &runs, Ask ask, Term term) {
  using S = Compute<T>;
  constexpr int64_t W = kLanes<S>, kStep = 4 * W;  // of a step no lane gets two values
  const Ahead ahead_of(runs, sizeof(T));
  TwoSums<S> sums;
  for (int64_t run = 0; run < runs.count; ++run) {
    const int64_t ahead = ahead_of(run);
    for (int64_t done = 0; done < runs.length;) {
      int64_t at = run * runs.stride + done, mask_at = run * runs.mask_stride + done;
      int64_t left = least(runs.length - done, TwoSums<S>::kLongest * kStep);
      sums.take((left + kStep - 1) / kStep);
      done += left;
      auto add = [&](int64_t values, auto lanes, auto &a, auto &b) __attribute__((always_inline)) {
        constexpr int64_t bytes = kValues<T, decltype(lanes)> * int64_t(sizeof(T));
        for (int64_t line = 0; line < bytes; line += BN_VECTOR_BYTES) ask(at + ahead + line / int64_t(sizeof(T)));
        term(at, mask_at, lanes, a, b);
        at += values;
        mask_at += values;
        left -= values;
      };
      while (left >= 4 * W) {
        if constexpr (kAtOnce == 4) {
          add(4 * W, Fours<T>{}, sums.a, sums.b);
        } else {
          add(2 * W, Twos<T>{}, sums.a.first, sums.b.first);
          add(2 * W, Twos<T>{}, sums.a.second, sums.b.second);
        }
      }
      if (left >= 2 * W) add(2 * W, Twos<T>{}, sums.a.first, sums.b.first);
      if (left >= W) add(W, Whole{}, sums.a.second.first, sums.b.second.first);
      if (left > 0) add(left, Tail{int(left)}, sums.a.second.second, sums.b.second.second);
    }
  }
  sums.flush();
  return {total(sums.wide_a), total(sums.wide_b)};
}

// Which positions of a part the rough mean is taken from; the same for every channel.
struct Anchors {
  int64_t outer[kAnchors], inner[kAnchors];
  int count;
};

static inline Anchors find_anchors(const bn_call &call, const Part &part) {
  Anchors anchors;
  anchors.count = 0;
  int64_t inner = part.inner_end - part.inner_begin, positions = part.positions();
  if (positions <= 0) return anchors;
  // Runs where there are any: each is one line of memory, which is read a moment later anyway.
  const int run = inner >= kAnchors / 2 ? kAnchors / 2 : 1;
  int64_t next = 0;
  for (int i = 0; i < kAnchors; ++i) {
    int64_t at = most(next, share(positions, i / run * run, kAnchors) + i % run);
    for (; at < positions; ++at) {
      int64_t o = part.outer_begin + at / inner, k = part.inner_begin + at % inner;
      if (call.mask && !call.mask[o * call.inner + k]) continue;
      anchors.outer[anchors.count] = o;
      anchors.inner[anchors.count++] = k;
      break;
    }
    next = at + 1;
  }
  return anchors;
}

static inline int64_t valid_positions(const bn_call &call, const Part &part) {
  if (!call.mask) return part.positions();
  int64_t count = 0;
  for (int64_t o = part.outer_begin; o < part.outer_end; ++o)
    for (int64_t i = part.inner_begin; i < part.inner_end; ++i) count += call.mask[o * call.inner + i] != 0;
  return count;
}

template <class T> BN_INLINE double value_at(const T *x, const bn_call &call, int64_t outer, int64_t channel, int64_t inner) {
  return load(x + (outer * call.channels + channel) * call.inner + inner, 1, Vector<Compute<T>>{})[0];
}

template <class T> static Compute<T> rough_mean(const bn_call &call, int64_t channel, const Anchors &anchors) {
  if (!anchors.count) return 0;
  double sum = 0;
  for (int i = 0; i < anchors.count; ++i)
    sum += value_at((const T *)call.x, call, anchors.outer[i], channel, anchors.inner[i]);
  return Compute<T>(sum / anchors.count);
}

// Sums of x - rough and of its square.
template <class T>
static __attribute__((noinline)) Sums moments_runs(const T *x, const uint8_t *mask, const Runs &runs,
                                                   Compute<T> rough) {
  using S = Compute<T>;
  using V = Vector<S>;
  const V around = splat(rough);
  auto sum = [&](auto masked) __attribute__((always_inline)) {
    auto ask = [&](int64_t at) __attribute__((always_inline)) { prefetch(x + at); };
    auto term = [&](int64_t at, int64_t mask_at, auto lanes, auto &a, auto &b) __attribute__((always_inline)) {
      auto value = load(x + at, lanes, around);
      if constexpr (masked.value) value = select(valid<S>(mask + mask_at, lanes), value, around);
      auto apart = value - around;
      a += apart;
      b = fma(apart, apart, b);
    };
    return sum_runs<T, 4>(runs, ask, term);
  };
  return mask ? sum(Count<1>{}) : sum(Count<0>{});
}

// The same in double, value by value: for numbers whose squares float cannot hold.
template <class T> static PartialMoments wide_moments(const bn_call &call, int64_t channel, const Part &part) {
  const T *x = (const T *)call.x;
  auto sum = [&](auto term) {
    double result = 0;
    // A sum that is infinite or NaN stays so: a network that has diverged need not wait for the rest.
    for (int64_t o = part.outer_begin; o < part.outer_end && is_finite(result); ++o)
      for (int64_t i = part.inner_begin; i < part.inner_end; ++i)
        if (!call.mask || call.mask[o * call.inner + i]) result += term(value_at(x, call, o, channel, i));
    return result;
  };
  double count = double(valid_positions(call, part));
  if (count == 0) return {0, 0, 0};
  double rough = sum([](double v) { return v; }) / count;
  if (!is_finite(rough)) return {count, __builtin_nan(""), __builtin_nan("")};
  double mean = rough + sum([&](double v) { return v - rough; }) / count;
  return {count, mean, sum([&](double v) { return (v - mean) * (v - mean); })};
}

// What sums around `rough` say, and whether they can be believed.
enum class Verdict { good, far_from_mean, out_of_range };

static inline Verdict judged(const bn_call &call, double count, double rough, double a, double b, PartialMoments &result) {
  double correction = a / count, squares = b - a * correction;
  result = {count, rough + correction, squares > 0 ? squares : 0};
  if (!is_finite(a) || !is_finite(b)) return Verdict::out_of_range;
  double var = squares / count;
  bool tiny = b > 0 || a != 0 ? b < count * 1e-30 && call.eps < 1e-25 : false;
  if (tiny) return Verdict::out_of_range;
  return correction * correction > 3 * var ? Verdict::far_from_mean : Verdict::good;
}

}  // namespace BN_ISA
#endif
