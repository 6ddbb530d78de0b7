// CUDA's words for the host compiler: the kernels as functions, run for one thread at a time.

#include <cmath>

using std::exp;
using std::fabs;
using std::floor;
using std::fmax;
using std::fmin;
using std::fmod;
using std::log;
using std::sqrt;

#define __global__
#define __device__

static struct { unsigned x; } blockIdx, threadIdx, blockDim, gridDim;

extern "C" void be_thread(unsigned thread, unsigned threads, unsigned block, unsigned blocks) {
    threadIdx.x = thread, blockDim.x = threads;
    blockIdx.x = block, gridDim.x = blocks;
}

template <class T>
void atomicAdd(T *to, T value) {
    *to += value;
}
