#define BN_ISA baseline
#define BN_VECTOR_BYTES 16
#include "../operators.h"

BN_TABLE(baseline);
