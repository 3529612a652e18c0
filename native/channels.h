// The numbers of one channel: merging partial moments, what the kernels read, and what a batch leaves behind.
#ifndef BATCHNORM_CHANNELS_H
#define BATCHNORM_CHANNELS_H

#include "batchnorm.h"
#include "geometry.h"
#include "simd.h"

namespace BN_ISA {

BN_INLINE bool is_finite(double v) { return v - v == 0; }

// (C,)-sized arguments come in several types; here they are doubles.
static inline double read_number(const void *from, int32_t type, int64_t index) {
  switch (type) {
    case BN_FLOAT64: return ((const double *)from)[index];
    case BN_BFLOAT16: return load((const bfloat16 *)from + index, 1, vfloat{})[0];
    case BN_FLOAT16: return load((const float16 *)from + index, 1, vfloat{})[0];
    default: return ((const float *)from)[index];
  }
}

static inline void write_number(void *to, int32_t type, int64_t index, double value) {
  switch (type) {
    case BN_FLOAT64: ((double *)to)[index] = value; break;
    case BN_BFLOAT16: store((bfloat16 *)to + index, splat(float(value)), 1); break;
    case BN_FLOAT16: store((float16 *)to + index, splat(float(value)), 1); break;
    default: ((float *)to)[index] = float(value);
  }
}

// Count, mean and sum of squared deviations of some of a channel's values.
struct PartialMoments {
  double count, mean, squares;
};

// Chan, Golub and LeVeque 1979: sums around different means become one.
static inline PartialMoments merged(PartialMoments a, PartialMoments b) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  double count = a.count + b.count, apart = b.mean - a.mean;
  return {count, a.mean + apart * (b.count / count), a.squares + b.squares + apart * apart * (a.count / count * b.count)};
}

// What the kernels read of each channel, one array a number so that channels can be the lanes of a vector.
//
//   z    = fma(x - high, scale, shift)             scale = invstd * weight, shift = bias - low * scale
//   xhat = fma(x - high, invstd, offset)           mean = high + low
//   dx   = fma(fma(xhat, slope, dy), scale, base)  slope = -mean_dy_xhat, base = -mean_dy * scale
template <class S> struct Numbers {
  S *high, *scale, *shift, *invstd, *offset, *slope, *base;
  bool through_statistics = false;  // else mean and invstd are constants: dx = scale * dy, whatever x is
  bool past_caches = false;         // outputs are larger than the caches: write them to memory
  bool far = false;                 // outputs may be far away: ask for their lines ahead
  static constexpr int kArrays = 7;
  Numbers(Pieces &pieces, int64_t channels) {
    S **arrays[kArrays] = {&high, &scale, &shift, &invstd, &offset, &slope, &base};
    for (S **array : arrays) *array = pieces.take<S>(channels);
  }
  static int64_t bytes(int64_t channels) { return kArrays * Pieces::bytes<S>(channels); }

  void place(const bn_call &call, int64_t value_bytes, int tensors) {
    past_caches = BN_ISA::past_caches(call, value_bytes, tensors);
    far = far_away(call, value_bytes, tensors);
  }
  void set(const bn_call &call, int64_t channel, int64_t at, double mean, double invstd_of_channel) {
    double weight = call.weight ? read_number(call.weight, call.parameter_type, channel) : 1.0;
    double bias = call.bias ? read_number(call.bias, call.parameter_type, channel) : 0.0;
    high[at] = S(mean);
    double low = is_finite(mean) ? mean - double(high[at]) : 0.0;
    scale[at] = S(invstd_of_channel * weight);
    invstd[at] = S(invstd_of_channel);
    // invstd may be infinite (evaluation, var and eps 0), and 0 times that NaN.
    shift[at] = S(low == 0 ? bias : bias - low * (invstd_of_channel * weight));
    offset[at] = S(low == 0 ? 0.0 : -low * invstd_of_channel);
  }
  void set_gradient(int64_t at, double mean_dy, double mean_dy_xhat, double wide_scale) {
    slope[at] = S(-mean_dy_xhat);
    base[at] = S(-mean_dy * wide_scale);
  }
  // The numbers of channels [begin, end) once more, `folds` times all in all, each `channels` behind the last.
  void repeat(int64_t begin, int64_t end, int64_t channels, int64_t folds) {
    for (S *array : {high, scale, shift, invstd, offset}) repeat(array, begin, end, channels, folds);
  }
  void repeat_gradient(int64_t begin, int64_t end, int64_t channels, int64_t folds) {
    for (S *array : {slope, base}) repeat(array, begin, end, channels, folds);
  }
  static void repeat(S *array, int64_t begin, int64_t end, int64_t channels, int64_t folds) {
    for (int64_t k = 1; k < folds; ++k)
      __builtin_memcpy(array + k * channels + begin, array + begin, (end - begin) * sizeof(S));
  }
};

// Move one buffer value towards the batch's; false where the batch's is not finite in the buffer's type.
static inline bool usable(double value, int32_t type) {
  return type == BN_FLOAT64 ? is_finite(value) : is_finite(double(float(value)));
}

static inline void track(const bn_call &call, int64_t channel, const PartialMoments &batch, double momentum) {
  double biased = batch.squares / batch.count;
  double var = biased * (batch.count / (batch.count > 1 ? batch.count - 1 : 1));
  if (!usable(batch.mean, call.running_type) || !usable(var, call.running_type)) return;
  double old_mean = read_number(call.running_mean, call.running_type, channel);
  double old_var = read_number(call.running_var, call.running_type, channel);
  write_number(call.running_mean, call.running_type, channel, (1 - momentum) * old_mean + momentum * batch.mean);
  write_number(call.running_var, call.running_type, channel, (1 - momentum) * old_var + momentum * var);
}

// Count a batch of `count` values a channel, and return the weight that it gets.
static inline double tick(const bn_call &call, double count) {
  bool cumulative = call.flags & BN_CUMULATIVE;
  // A batch without statistics would weigh in a cumulative average as 0 and 1 do; under a mask so does one value.
  bool counts = call.mask ? count > 1 : !(cumulative && count == 0);
  if (call.num_batches_tracked && counts) ++*call.num_batches_tracked;
  if (!cumulative) return call.momentum;
  return call.num_batches_tracked ? 1.0 / double(most(1, *call.num_batches_tracked)) : 0.0;
}

static inline double invstd_of(const bn_call &call, const PartialMoments &batch) {
  return 1 / __builtin_sqrt((batch.count > 0 ? batch.squares / batch.count : 0.0) + call.eps);
}

// What a batch leaves of one channel: mean, variance and invstd, and where wanted the running statistics.
static inline void finish_moments(const bn_call &call, int64_t channel, const PartialMoments &batch, double momentum,
                                  double invstd) {
  call.mean[channel] = batch.mean;
  call.var[channel] = batch.count > 0 ? batch.squares / batch.count : 0.0;
  if (call.invstd) call.invstd[channel] = invstd;
  bool moves = call.running_mean && call.running_var && batch.count > (call.mask ? 1 : 0);
  if (moves) track(call, channel, batch, momentum);
}

}  // namespace BN_ISA
#endif
