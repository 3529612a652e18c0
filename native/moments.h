// moments: count, mean and squared deviations of values, always summed around a rough mean.
//
// Partial sums in the compute type are at most 4096 values long and are merged in double. Where the rough mean turns out
// far from the mean the sums are taken again around the mean; where squares leave the range of float, in double.
#ifndef BATCHNORM_MOMENTS_H
#define BATCHNORM_MOMENTS_H

#include "channels.h"
#include "geometry.h"
#include "simd.h"

namespace BN_ISA {

constexpr int64_t kBlock = 4096;
constexpr int kAnchors = 16;

// Two sums over values: short ones in lanes, and long ones in double.
template <class S> struct PairOfSums {
  Vector<S> a, b;
  vdouble wide_a[2], wide_b[2];
  int64_t length;

  void clear() { *this = PairOfSums{}; }
  void flush() {
    add_to(wide_a, a);
    add_to(wide_b, b);
    a = Vector<S>{};
    b = Vector<S>{};
    length = 0;
  }
  // How many of `wanted` values the lanes take now.
  int64_t room(int64_t wanted) {
    wanted = least(wanted, kBlock);
    if (length + wanted > kBlock) flush();
    length += wanted;
    return wanted;
  }
};

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

// Sums of x - rough and of its square over one run.
template <class T>
static __attribute__((noinline)) void moments_run(const T *x, const uint8_t *mask, int64_t n, Compute<T> rough,
                                                  PairOfSums<Compute<T>> &sums) {
  using S = Compute<T>;
  using V = Vector<S>;
  const V around = splat(rough);
  while (n > 0) {
    const int64_t length = sums.room(n);
    V a[4] = {sums.a}, b[4] = {sums.b};
    int64_t i = 0;
    if (!mask)
      for (; i + 4 * kLanes<S> <= length; i += 4 * kLanes<S>)
        for (int k = 0; k < 4; ++k) {
          V apart = load(x + i + k * kLanes<S>) - around;
          a[k] += apart;
          b[k] = fma(apart, apart, b[k]);
        }
    for_vectors<S>(length - i, [&](int64_t j, auto lanes) __attribute__((always_inline)) {
      V value = load(x + i + j, lanes, around);
      if (mask) value = select(valid<S>(mask + i + j, lanes), value, around);
      V apart = value - around;
      a[0] += apart;
      b[0] = fma(apart, apart, b[0]);
    });
    sums.a = (a[0] + a[1]) + (a[2] + a[3]);
    sums.b = (b[0] + b[1]) + (b[2] + b[3]);
    x += length;
    if (mask) mask += length;
    n -= length;
  }
}

// The same in double, value by value: for numbers whose squares float cannot hold.
template <class T> static PartialMoments wide_moments(const bn_call &call, int64_t channel, const Part &part) {
  const T *x = (const T *)call.x;
  auto sum = [&](auto term) {
    double result = 0;
    for (int64_t o = part.outer_begin; o < part.outer_end; ++o)
      for (int64_t i = part.inner_begin; i < part.inner_end; ++i)
        if (!call.mask || call.mask[o * call.inner + i]) result += term(value_at(x, call, o, channel, i));
    return result;
  };
  double count = double(valid_positions(call, part));
  if (count == 0) return {0, 0, 0};
  double rough = sum([](double v) { return v; }) / count;
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
