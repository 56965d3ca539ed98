// The fake driver as a program finds it that must take it for a real one: under the name libcuda.so.1,
// with kernels and times, for trying what is otherwise only run where a GPU is.

#define SLUICE_DISGUISED
#include "../driver/fake-libcuda.cc"
