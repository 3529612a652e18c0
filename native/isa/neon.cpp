#define BN_ISA neon
#define BN_VECTOR_BYTES 16
#include "../operators.h"

BN_TABLE(neon);
