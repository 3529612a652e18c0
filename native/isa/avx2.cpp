#define BN_ISA avx2
#define BN_VECTOR_BYTES 32
#include "../operators.h"

BN_TABLE(avx2);
