// kernels.cc's side of the plugin.
#ifndef SYSTOLIC_PJRT_CPU_KERNELS_INTERNAL_H
#define SYSTOLIC_PJRT_CPU_KERNELS_INTERNAL_H

#include <string>

void register_kernels();                            // before anything is compiled or loaded
std::string typed_kernel_calls(std::string text);   // a program as XLA:CPU takes it

#endif
