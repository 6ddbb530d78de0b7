// Bias and ReLU in one pass; functional/activation.py has the array version.

// x and y are in one memory order, in which a channel's elements come `run` at a time.
extern "C" __global__ void bias_relu(const real *x, const real *bias, real *y, integer count,
                                     integer channels, integer run) {
    FOR_EACH(i, count) {
        real value = x[i] + bias[i / run % channels];
        y[i] = value > 0 || value != value ? value : 0;  // a NaN stays
    }
}

extern "C" __global__ void relu_backward(const real *grad, const real *y, real *grad_x,
                                         integer count) {
    FOR_EACH(i, count) grad_x[i] = y[i] > 0 ? grad[i] : 0;
}
