// One launch for the update of all parameters; optim.py has the array versions.

enum { TENSORS = 40, SETTINGS = 6 };  // what a launch takes: its arguments have 4 KB

struct Parameters {
    long long count, end[TENSORS];  // elements up to and with each parameter
    real *weight[TENSORS], *grad[TENSORS], *first[TENSORS], *second[TENSORS];
};

struct Settings {
    double of[TENSORS][SETTINGS];
};

__device__ int parameter_of(integer *i, const Parameters &p) {
    int k = 0;
    while (*i >= p.end[k]) k++;
    if (k > 0) *i -= p.end[k - 1];
    return k;
}

extern "C" __global__ void adam(Parameters p, Settings settings) {
    FOR_EACH(e, p.end[p.count - 1]) {
        integer i = e;
        int k = parameter_of(&i, p);
        const double *s = settings.of[k];
        real rate = s[0], root = s[1], eps = s[4], decay = s[5];
        real w = p.weight[k][i], g = p.grad[k][i];
        if (decay != 0) g = g + decay * w;
        real m = p.first[k][i] * (real)s[2] + (real)(1 - s[2]) * g;
        real v = p.second[k][i] * (real)s[3] + (real)(1 - s[3]) * g * g;
        p.first[k][i] = m;
        p.second[k][i] = v;
        p.weight[k][i] = w - rate * m / (sqrt(v) / root + eps);
    }
}

extern "C" __global__ void sgd(Parameters p, Settings settings) {
    FOR_EACH(e, p.end[p.count - 1]) {
        integer i = e;
        int k = parameter_of(&i, p);
        const double *s = settings.of[k];
        real rate = s[0], momentum = s[1], decay = s[3];
        real w = p.weight[k][i], g = p.grad[k][i];
        if (decay != 0) g = g + decay * w;
        if (momentum != 0) {
            real v = p.first[k][i] * momentum + g;
            p.first[k][i] = v;
            g = s[2] != 0 ? g + momentum * v : v;  // Nesterov's
        }
        p.weight[k][i] = w - rate * g;
    }
}
