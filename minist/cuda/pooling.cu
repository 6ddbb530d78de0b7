// The largest of each window, and where in its window it was found; functional/pooling.py has the
// array version.

struct Pooling {
    integer images, channels, size_in[2], size_out[2];
    integer kernel[2], stride[2], padding[2];
    integer batch_last;           // whether the batch is innermost in memory
    integer x[4], y[4], chosen[4];  // steps along N, C, H, W
};

struct Pixel {
    integer n, c, h, w;
};

// The i-th pixel in the order of memory: neighbouring threads take neighbours.
__device__ Pixel pixel_of(integer i, const integer *size, const Pooling &p) {
    Pixel at;
    if (p.batch_last) at.n = i % p.images, i /= p.images;
    at.w = i % size[1], i /= size[1];
    at.h = i % size[0], i /= size[0];
    at.c = i % p.channels, i /= p.channels;
    if (!p.batch_last) at.n = i;
    return at;
}

__device__ integer offset(const Pixel &at, const integer *step) {
    return at.n * step[0] + at.c * step[1] + at.h * step[2] + at.w * step[3];
}

extern "C" __global__ void max_pool(const real *x, real *y, unsigned short *chosen, Pooling p) {
    FOR_EACH(i, p.images * p.channels * p.size_out[0] * p.size_out[1]) {
        Pixel out = pixel_of(i, p.size_out, p), in = out;
        real largest = 0;
        int place = 0, k = 0;
        for (integer row = 0; row < p.kernel[0]; row++)
            for (integer column = 0; column < p.kernel[1]; column++, k++) {
                in.h = out.h * p.stride[0] - p.padding[0] + row;
                in.w = out.w * p.stride[1] - p.padding[1] + column;
                bool inside = in.h >= 0 && in.h < p.size_in[0] && in.w >= 0 && in.w < p.size_in[1];
                real value = inside ? x[offset(in, p.x)] : -infinity();
                if (k == 0 || value > largest || value != value) {  // a NaN stays
                    largest = value;
                    place = k;
                }
            }
        y[offset(out, p.y)] = largest;
        chosen[offset(out, p.chosen)] = largest != largest ? k - 1 : place;
    }
}

// A thread for each pixel of the image gathers from the windows that hold it: nothing to share.
extern "C" __global__ void max_pool_backward(const real *grad, const unsigned short *chosen,
                                             real *grad_x, Pooling p) {
    FOR_EACH(i, p.images * p.channels * p.size_in[0] * p.size_in[1]) {
        Pixel in = pixel_of(i, p.size_in, p), out = in;
        real sum = 0;
        int k = 0;
        for (integer row = 0; row < p.kernel[0]; row++)
            for (integer column = 0; column < p.kernel[1]; column++, k++) {
                integer h = in.h + p.padding[0] - row, w = in.w + p.padding[1] - column;
                if (h < 0 || w < 0 || h % p.stride[0] || w % p.stride[1]) continue;
                out.h = h / p.stride[0], out.w = w / p.stride[1];
                if (out.h < p.size_out[0] && out.w < p.size_out[1])
                    sum += chosen[offset(out, p.chosen)] == k ? grad[offset(out, p.y)] : 0;
            }
        grad_x[offset(in, p.x)] = sum;
    }
}
