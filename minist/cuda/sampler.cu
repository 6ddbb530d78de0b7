// Eq. (3) to (7) in one pass, a thread for each point of the grid: its pixels and weights are found
// once and serve all channels. spatial/borders.py and separable.py explain each step.

struct Sampling {
    // Axes of the points, the batch among them, outermost first in the memory of V: their sizes,
    // and the steps along them. (U has a step along the batch alone.)
    integer points[4], v[4], grid[4], u[4], grad_u[4], grad_grid[4];
    integer channels, v_channel, u_channel, grad_u_channel;
    integer size[3], u_pixel[3], grad_u_pixel[3];  // of the image's axes, outermost first
    integer grid_coordinate, grad_grid_coordinate;
    integer padding, align_corners;
};

enum { ZEROS, BORDER, REFLECTION };  // as in PADDINGS

template <int TAPS>
struct Axis {
    integer seen[TAPS];  // the pixel that each tap sees; -1 is outside, where there are zeros
    real weight[TAPS], slope[TAPS];
};

template <int TAPS>
__device__ void weigh(real t, real a, real *weight, real *slope) {
    if (TAPS == 1) {  // Eq. (4)
        weight[0] = 1;
        slope[0] = 0;
    } else if (TAPS == 2) {  // Eq. (5), Eq. (7)
        weight[0] = 1 - t, weight[TAPS - 1] = t;
        slope[0] = -1, slope[TAPS - 1] = 1;
    } else {  // cubic convolution
        for (int k = 0; k < TAPS; k++) {
            real x = t - (k - 1), r = fabs(x), sign = x > 0 ? 1 : x < 0 ? -1 : 0;
            if (r <= 1) {
                weight[k] = ((a + 2) * r - (a + 3)) * r * r + 1;
                slope[k] = sign * ((3 * (a + 2) * r - 2 * (a + 3)) * r);
            } else {
                weight[k] = a * (((r - 5) * r + 8) * r - 4);
                slope[k] = sign * (a * ((3 * r - 10) * r + 8));
            }
        }
    }
}

__device__ real fold(real x, integer size, bool align_corners, real *sign) {
    real edge = align_corners ? 0 : 0.5, length = size - 1 + 2 * edge;
    if (length == 0) {
        *sign = 0;
        return 0;
    }
    real far = (real)1e6 * (real)size;
    bool near = fabs(x) < far;
    x = (x != x ? (real)0 : fmin(fmax(x, -far), far)) + edge;
    real phase = fmod(x, 2 * length);
    if (phase < 0) phase += 2 * length;
    *sign = near ? (phase <= length ? 1 : -1) : 0;
    return length - fabs(phase - length) - edge;
}

__device__ integer seen_at(integer pixel, integer size, const Sampling &s) {
    if (pixel >= 0 && pixel < size) return pixel;
    if (s.padding == ZEROS) return -1;
    if (s.padding == BORDER) return pixel < 0 ? 0 : size - 1;
    integer edge = s.align_corners ? 0 : 1, period = 2 * (size - 1 + edge);
    if (period < 1) period = 1;
    integer there = (pixel % period + period) % period;
    integer back = ((-edge - pixel) % period + period) % period;
    return there < back ? there : back;
}

template <int TAPS>
__device__ Axis<TAPS> axis_of(real x, integer size, real a, const Sampling &s) {
    const int first = -((TAPS - 1) / 2), last = first + TAPS - 1, margin = TAPS + 1;
    // In real throughout: most cards are slow at double.
    real scale = (real)(s.align_corners ? size - 1 : size) * (real)0.5;
    x = x * scale + (real)(size - 1) * (real)0.5;
    real pixel, sign = 1;
    if (s.padding == REFLECTION) {
        pixel = fold(x, size, s.align_corners, &sign);
        if (TAPS <= 2) {
            sign *= pixel >= 0 && pixel <= size - 1;
            pixel = fmin(fmax(pixel, (real)0), (real)(size - 1));
        }
    } else if (s.padding == BORDER && TAPS <= 2) {
        pixel = fmin(fmax(x, (real)0), (real)(size - 1));
        sign = pixel > 0 && pixel < size - 1;
    } else {  // NaN is moved, too: fmax takes the other number
        pixel = fmin(fmax(x, (real)(-(margin + first))), (real)(size + margin - 1 - last));
        if (s.padding == BORDER) sign = pixel == x;
    }
    const real epsilon = sizeof(real) == 4 ? 1.1920928955078125e-07 : 2.220446049250313e-16;
    real slack = 4 * epsilon * (real)(size < 2 ? 2 : size);
    real m = floor(pixel + slack + (real)(TAPS % 2 ? 0.5 : 0));
    real t = fmax(pixel - m, (real)-0.5);
    t *= fabs(t) > slack;
    Axis<TAPS> axis;
    weigh<TAPS>(t, a, axis.weight, axis.slope);
    for (int k = 0; k < TAPS; k++) {
        axis.slope[k] *= sign * scale;
        axis.seen[k] = seen_at((integer)m + first + k, size, s);
    }
    return axis;
}

// Where a point lies in each array.
struct Place {
    integer v, grid, u, grad_u, grad_grid;
};

__device__ Place place_of(integer i, const Sampling &s) {
    Place at = {0, 0, 0, 0, 0};
    for (int k = 3; k >= 0; k--) {
        integer number = i % s.points[k];
        i /= s.points[k];
        at.v += number * s.v[k];
        at.grid += number * s.grid[k];
        at.u += number * s.u[k];
        at.grad_u += number * s.grad_u[k];
        at.grad_grid += number * s.grad_grid[k];
    }
    return at;
}

// A loop over the taps of an axis of an image; in two dimensions the third has but one, of weight 1.
#define TAPS_OF(k, d) for (int k = 0; k < ((d) < 0 ? 1 : TAPS); k++)
#define OF_TAP(what, k, d, otherwise) ((d) < 0 ? (otherwise) : axes[(d) < 0 ? 0 : (d)].what[k])

template <int DIMS, int TAPS>
__device__ void sample(const real *__restrict__ u, const real *__restrict__ grid,
                       const real *__restrict__ a, real *__restrict__ v, const Sampling &s) {
    const int Z = DIMS - 3, Y = DIMS - 2, X = DIMS - 1;
    integer points = s.points[0] * s.points[1] * s.points[2] * s.points[3];
    FOR_EACH(i, points) {
        Place at = place_of(i, s);
        Axis<TAPS> axes[DIMS];
        for (int d = 0; d < DIMS; d++)  // x is the first of the grid, and the last of the image
            axes[d] = axis_of<TAPS>(grid[at.grid + (DIMS - 1 - d) * s.grid_coordinate], s.size[d],
                                    a ? *a : 0, s);
        for (integer c = 0; c < s.channels; c++) {
            const real *image = u + at.u + c * s.u_channel;
            real sum = 0;
            TAPS_OF(z, Z) {
                real plane = 0;
                integer seen_z = OF_TAP(seen, z, Z, 0);
                TAPS_OF(y, Y) {
                    real row = 0;
                    integer seen_y = axes[Y].seen[y];
                    TAPS_OF(x, X) {
                        integer seen_x = axes[X].seen[x];
                        if (seen_z >= 0 && seen_y >= 0 && seen_x >= 0)
                            row += axes[X].weight[x] *
                                   image[(DIMS == 3 ? seen_z * s.u_pixel[0] : 0) +
                                         seen_y * s.u_pixel[Y] + seen_x * s.u_pixel[X]];
                    }
                    plane += axes[Y].weight[y] * row;
                }
                sum += OF_TAP(weight, z, Z, (real)1) * plane;
            }
            v[at.v + c * s.v_channel] = sum;  // Eq. (3)
        }
    }
}

template <int DIMS, int TAPS>
__device__ void sample_backward(const real *__restrict__ grad, const real *__restrict__ u,
                                const real *__restrict__ grid, const real *__restrict__ a,
                                real *__restrict__ grad_u, real *__restrict__ grad_grid,
                                const Sampling &s) {
    const int Z = DIMS - 3, Y = DIMS - 2, X = DIMS - 1;
    integer points = s.points[0] * s.points[1] * s.points[2] * s.points[3];
    FOR_EACH(i, points) {
        Place at = place_of(i, s);
        Axis<TAPS> axes[DIMS];
        for (int d = 0; d < DIMS; d++)
            axes[d] = axis_of<TAPS>(grid[at.grid + (DIMS - 1 - d) * s.grid_coordinate], s.size[d],
                                    a ? *a : 0, s);
        real by_z = 0, by_y = 0, by_x = 0;
        for (integer c = 0; c < s.channels; c++) {
            const real *image = u + at.u + c * s.u_channel;
            real g = grad[at.v + c * s.v_channel];
            real sum_z = 0, sum_y = 0, sum_x = 0;
            TAPS_OF(z, Z) {
                real plane = 0, plane_y = 0, plane_x = 0;
                integer seen_z = OF_TAP(seen, z, Z, 0);
                real weight_z = OF_TAP(weight, z, Z, (real)1);
                TAPS_OF(y, Y) {
                    real row = 0, row_x = 0;
                    integer seen_y = axes[Y].seen[y];
                    real weight_zy = weight_z * axes[Y].weight[y];
                    TAPS_OF(x, X) {
                        integer seen_x = axes[X].seen[x];
                        if (seen_z < 0 || seen_y < 0 || seen_x < 0) continue;
                        if (grad_grid) {
                            real value = image[(DIMS == 3 ? seen_z * s.u_pixel[0] : 0) +
                                               seen_y * s.u_pixel[Y] + seen_x * s.u_pixel[X]];
                            row += axes[X].weight[x] * value;
                            row_x += axes[X].slope[x] * value;
                        }
                        if (grad_u)  // Eq. (6); points may share a pixel
                            atomicAdd(grad_u + at.grad_u + c * s.grad_u_channel +
                                          (DIMS == 3 ? seen_z * s.grad_u_pixel[0] : 0) +
                                          seen_y * s.grad_u_pixel[Y] + seen_x * s.grad_u_pixel[X],
                                      g * (weight_zy * axes[X].weight[x]));
                    }
                    plane += axes[Y].weight[y] * row;
                    plane_y += axes[Y].slope[y] * row;
                    plane_x += axes[Y].weight[y] * row_x;
                }
                sum_z += OF_TAP(slope, z, Z, (real)0) * plane;
                sum_y += weight_z * plane_y;
                sum_x += weight_z * plane_x;
            }
            by_z += sum_z * g;  // Eq. (7)
            by_y += sum_y * g;
            by_x += sum_x * g;
        }
        if (grad_grid) {
            real *to = grad_grid + at.grad_grid;
            to[0] = by_x;
            to[s.grad_grid_coordinate] = by_y;
            if (DIMS == 3) to[2 * s.grad_grid_coordinate] = by_z;
        }
    }
}

#define SAMPLER(DIMS, TAPS)                                                                     \
    extern "C" __global__ void sample_##DIMS##_##TAPS(                                          \
        const real *u, const real *grid, const real *a, real *v, Sampling s) {                  \
        sample<DIMS, TAPS>(u, grid, a, v, s);                                                   \
    }                                                                                           \
    extern "C" __global__ void sample_backward_##DIMS##_##TAPS(                                 \
        const real *grad, const real *u, const real *grid, const real *a, real *grad_u,         \
        real *grad_grid, Sampling s) {                                                          \
        sample_backward<DIMS, TAPS>(grad, u, grid, a, grad_u, grad_grid, s);                    \
    }

SAMPLER(2, 1)  // nearest
SAMPLER(2, 2)  // bilinear
SAMPLER(2, 4)  // bicubic
SAMPLER(3, 1)
SAMPLER(3, 2)
SAMPLER(3, 4)
