// bn_math: the functions of math.h by name, for the tests of their accuracy.
#ifndef BATCHNORM_MATH_TABLE_H
#define BATCHNORM_MATH_TABLE_H

#include <string.h>

#include "batchnorm.h"
#include "math.h"

namespace BN_ISA {

template <class T, class F> BN_INLINE int map(F function, const void *x, void *y, int64_t n) {
  using S = Compute<T>;
  const T *from = (const T *)x;
  T *to = (T *)y;
  int64_t i = 0;
  for (; i + kLanes<S> <= n; i += kLanes<S>) store(to + i, function(load(from + i)));
  if (i < n) store(to + i, function(load(from + i, int(n - i), Vector<S>{})), int(n - i));
  return 0;
}

template <class T> BN_INLINE int math_by_name(const char *name, const void *x, void *y, int64_t n) {
  using V = Vector<Compute<T>>;
  if (!strcmp(name, "exp")) return map<T>([](V v) { return exp(v); }, x, y, n);
  if (!strcmp(name, "expm1")) return map<T>([](V v) { return expm1(v); }, x, y, n);
  if (!strcmp(name, "sigmoid")) return map<T>([](V v) { return sigmoid(v); }, x, y, n);
  if (!strcmp(name, "normal_cdf")) return map<T>([](V v) { return normal_cdf(v); }, x, y, n);
  if (!strcmp(name, "normal_pdf")) return map<T>([](V v) { return normal_pdf(v); }, x, y, n);
  return -1;
}

inline int math(const char *name, int32_t value_type, const void *x, void *y, int64_t n) {
  switch (value_type) {
    case BN_FLOAT32: return math_by_name<float>(name, x, y, n);
    case BN_FLOAT64: return math_by_name<double>(name, x, y, n);
    case BN_BFLOAT16: return math_by_name<bfloat16>(name, x, y, n);
    case BN_FLOAT16: return math_by_name<float16>(name, x, y, n);
    default: return -1;
  }
}

}  // namespace BN_ISA
#endif
