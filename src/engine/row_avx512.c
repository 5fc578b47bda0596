#define ROW_OPS row_ops_avx512
#define ROW_NAME "avx512"
#include "engine/row_impl.h"
