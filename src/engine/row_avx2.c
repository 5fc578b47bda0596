#define ROW_OPS row_ops_avx2
#define ROW_NAME "avx2"
#include "engine/row_impl.h"
