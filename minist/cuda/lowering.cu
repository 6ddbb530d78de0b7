// What each place of a kernel sees of the images, written out as a matrix, and the adjoint; between
// them convolution is a product. Images are (C, H, W, N), the matrix (C kh kw, H' W' N).

struct Lowering {
    integer channels, height, width, images;
    integer kernel[2], size_out[2], stride[2], dilation[2];
    integer x[4];  // steps along C, H, W, N
};

extern "C" __global__ void im2col(const real *x, real *columns, Lowering g) {
    integer positions = g.size_out[0] * g.size_out[1] * g.images;
    FOR_EACH(e, g.channels * g.kernel[0] * g.kernel[1] * positions) {
        integer i = e;
        integer n = i % g.images;
        i /= g.images;
        integer w = i % g.size_out[1];
        i /= g.size_out[1];
        integer h = i % g.size_out[0];
        i /= g.size_out[0];
        integer column = i % g.kernel[1];
        i /= g.kernel[1];
        integer row = i % g.kernel[0];
        i /= g.kernel[0];
        h = h * g.stride[0] + row * g.dilation[0];
        w = w * g.stride[1] + column * g.dilation[1];
        columns[e] = x[i * g.x[0] + h * g.x[1] + w * g.x[2] + n * g.x[3]];
    }
}

// A thread for each pixel adds up the places that it was written to: nothing to share.
extern "C" __global__ void col2im(const real *columns, real *x, Lowering g) {
    integer positions = g.size_out[0] * g.size_out[1] * g.images;
    FOR_EACH(e, g.channels * g.height * g.width * g.images) {
        integer i = e;
        integer n = i % g.images;
        i /= g.images;
        integer w = i % g.width;
        i /= g.width;
        integer h = i % g.height;
        i /= g.height;
        real sum = 0;
        for (integer row = 0; row < g.kernel[0]; row++)
            for (integer column = 0; column < g.kernel[1]; column++) {
                integer down = h - row * g.dilation[0], across = w - column * g.dilation[1];
                if (down < 0 || across < 0 || down % g.stride[0] || across % g.stride[1]) continue;
                down /= g.stride[0], across /= g.stride[1];
                if (down < g.size_out[0] && across < g.size_out[1])
                    sum += columns[((i * g.kernel[0] + row) * g.kernel[1] + column) * positions +
                                   (down * g.size_out[1] + across) * g.images + n];
            }
        x[i * g.x[0] + h * g.x[1] + w * g.x[2] + n * g.x[3]] = sum;
    }
}
