// What an instruction set offers: one table each, filled by the files of isa/ and chosen from by dispatch.cpp.
#ifndef BATCHNORM_TABLE_H
#define BATCHNORM_TABLE_H

#include "batchnorm.h"

struct bn_table {
  const char *name;
  int (*moments)(const bn_call *);
  int (*normalize)(const bn_call *);
  int (*grad_moments)(const bn_call *);
  int (*grad_input)(const bn_call *);
  int (*forward)(const bn_call *);
  int (*backward)(const bn_call *);
  int (*math)(const char *, int32_t, const void *, void *, int64_t);
};

#define BN_TABLE_OF(isa) bn_table_of_##isa
#define BN_TABLE(isa) \
  extern "C" const bn_table BN_TABLE_OF(isa) = {#isa, isa::moments, isa::normalize, isa::grad_moments, isa::grad_input, \
                                                isa::forward, isa::backward, isa::math}

#if defined(__x86_64__)
extern "C" const bn_table bn_table_of_avx512, bn_table_of_avx2, bn_table_of_baseline;
#elif defined(__aarch64__)
extern "C" const bn_table bn_table_of_neon;
#endif

#endif
