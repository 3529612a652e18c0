// The exported functions: pass each call on to the instruction set in use.
#include <string.h>
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif
#include <math.h>
#include <omp.h>

#include "batchnorm.h"
#include "table.h"

#define BN_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

bool here(const bn_table &table) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (&table == &bn_table_of_avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
  if (&table == &bn_table_of_avx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("f16c");
#else
  (void)table;
#endif
  return true;
}

// Best first.
#if defined(__x86_64__)
const bn_table *const tables[] = {&bn_table_of_avx512, &bn_table_of_avx2, &bn_table_of_baseline};
#elif defined(__aarch64__)
const bn_table *const tables[] = {&bn_table_of_neon};
#else
#error "no kernels for this processor: install without them (the reference does the work)"
#endif

const bn_table *best() {
  for (const bn_table *table : tables)
    if (here(*table)) return table;
  return nullptr;
}

const bn_table *in_use = nullptr;

const bn_table &table() {
  if (!in_use) in_use = best();
  return *in_use;
}

template <class T> void given_statistics(const bn_call &call) {
  const T *mean = (const T *)call.running_mean, *var = (const T *)call.running_var;
  for (int64_t channel = 0; channel < call.channels; ++channel) {
    call.mean[channel] = double(mean[channel]);
    call.invstd[channel] = 1 / sqrt(double(var[channel]) + call.eps);
  }
}

}  // namespace

BN_EXPORT int bn_moments(const bn_call *call) { return table().moments(call); }
BN_EXPORT int bn_normalize(const bn_call *call) { return table().normalize(call); }
BN_EXPORT int bn_grad_moments(const bn_call *call) { return table().grad_moments(call); }
BN_EXPORT int bn_grad_input(const bn_call *call) { return table().grad_input(call); }
BN_EXPORT int bn_forward(const bn_call *call) { return table().forward(call); }
BN_EXPORT int bn_backward(const bn_call *call) { return table().backward(call); }

BN_EXPORT int bn_evaluate(const bn_call *call) {
  if (call->running_type == BN_FLOAT32)
    given_statistics<float>(*call);
  else if (call->running_type == BN_FLOAT64)
    given_statistics<double>(*call);
  else
    return -1;
  return table().normalize(call);
}

BN_EXPORT int bn_math(const char *name, int32_t value_type, const void *x, void *y, int64_t n) {
  return table().math(name, value_type, x, y, n);
}

BN_EXPORT const char *bn_isa(void) { return table().name; }

BN_EXPORT int bn_use_isa(const char *name) {
  for (const bn_table *candidate : tables)
    if (!strcmp(candidate->name, name) && here(*candidate)) {
      in_use = candidate;
      return 0;
    }
  return -1;
}

BN_EXPORT const char *bn_isas(void) {
  char found[64] = "";
  for (const bn_table *candidate : tables) {
    if (!here(*candidate)) continue;
    if (found[0]) strcat(found, ",");
    strcat(found, candidate->name);
  }
  static char names[sizeof found];
  memcpy(names, found, sizeof found);  // two threads may be here, and write the same
  return names;
}

BN_EXPORT int bn_abi(void) { return BN_ABI; }
BN_EXPORT int bn_max_threads(void) { return omp_get_max_threads(); }

BN_EXPORT int bn_advise_huge_pages(void *address, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (uintptr_t(address) + page - 1) / page * page;
  const uintptr_t end = (uintptr_t(address) + uintptr_t(bytes)) / page * page;
  return begin < end ? madvise((void *)begin, end - begin, MADV_HUGEPAGE) : -1;
#else
  (void)address, (void)bytes;
  return -1;
#endif
}
