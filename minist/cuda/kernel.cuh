// What all kernels share; it is put in front of each .cu file, with REAL defined as float or double,
// and INTEGER as int, where that is wide enough, or long long.

typedef REAL real;
typedef INTEGER integer;  // sizes, and steps from element to element

// Thread k of n takes the elements k, k + n, k + 2 n ...: right for any number of threads, and
// neighbours in a warp take neighbours in memory.
#define FOR_EACH(i, count)                                                             \
    for (integer i = blockIdx.x * (integer)blockDim.x + threadIdx.x; i < (count);      \
         i += (integer)gridDim.x * blockDim.x)

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 600
// Cards before Pascal add no doubles: try until nobody has come in between.
__device__ inline double atomicAdd(double *to, double value) {
    unsigned long long *at = (unsigned long long *)to, old = *at, seen;
    do {
        seen = old;
        old = atomicCAS(at, seen, __double_as_longlong(value + __longlong_as_double(seen)));
    } while (seen != old);
    return __longlong_as_double(old);
}
#endif

// Spelt out, since NVRTC has no math.h.
__device__ inline real infinity() { return -log((real)0); }
__device__ inline real not_a_number() { return infinity() - infinity(); }
