// Softmax, its cross entropy and the gradient in one pass, a thread for each row;
// functional/loss.py has the array version.

extern "C" __global__ void cross_entropy(const real *logits, const long long *labels, real *loss,
                                         real *residual, integer rows, integer classes,
                                         integer row, integer class_) {
    FOR_EACH(i, rows) {
        const real *x = logits + i * row;
        real *r = residual + i * row;
        integer label = labels[i];
        real largest = x[0], total = 0;
        for (integer j = 1; j < classes; j++) {
            real value = x[j * class_];
            if (value > largest || value != value) largest = value;  // a NaN stays
        }
        for (integer j = 0; j < classes; j++) {
            real e = exp(x[j * class_] - largest);
            r[j * class_] = e;
            total += e;
        }
        for (integer j = 0; j < classes; j++) r[j * class_] /= total;
        if (label >= 0 && label < classes) {
            r[label * class_] -= 1;
            loss[i] = log(total) - (x[label * class_] - largest);
        } else {  // the host does not wait to be told: it shows as a loss that is no number
            loss[i] = not_a_number();
            for (integer j = 0; j < classes; j++) r[j * class_] = not_a_number();
        }
    }
}
