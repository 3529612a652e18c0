#define BN_ISA avx512
#define BN_VECTOR_BYTES 64
#include "../operators.h"

BN_TABLE(avx512);
