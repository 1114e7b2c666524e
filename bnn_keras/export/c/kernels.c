/*
 * Functions that written networks call. A network contains those that it uses: paragraphs are functions, and a function
 * is copied if its name occurs in the code. Maps are [height][width][channels]. A window starts at (top, left), which
 * are negative in the padding; what is outside of the map counts as zero.
 */

/* Return the larger of two numbers. */
static int larger(int a, int b)
{
    return a > b ? a : b;
}

/* Return the smaller of two numbers. */
static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* Return the number of bits that are set. */
static int ones(uint32_t word)
{
#if defined(__POPCNT__) || defined(__aarch64__)
    return __builtin_popcount(word);
#else
    word -= (word >> 1) & 0x55555555u;
    word = (word & 0x33333333u) + ((word >> 2) & 0x33333333u);
    return (int)((((word + (word >> 4)) & 0x0f0f0f0fu) * 0x01010101u) >> 24);
#endif
}

/* Return in how many bits two arrays of words differ. */
static int differences(const uint32_t *restrict a, const uint32_t *restrict b, int words)
{
    int i = 0, count = 0;
#if defined(__POPCNT__) && defined(__x86_64__)
    for (; i + 1 < words; i += 2)
        count += __builtin_popcountll((a[i] | (uint64_t)a[i + 1] << 32) ^ (b[i] | (uint64_t)b[i + 1] << 32));
#endif
    for (; i < words; ++i)
        count += ones(a[i] ^ b[i]);
    return count;
}

/* Set all values of a pixel to a number. */
static void fill(float *pixel, float value, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] = value;
}

/* Copy a pixel of a map; zeros if it is outside. */
static void copy(float *pixel, const float *map, int height, int width, int channels, int y, int x)
{
    int c;
    if (y < 0 || y >= height || x < 0 || x >= width)
        fill(pixel, 0.0f, channels);
    else
        for (c = 0; c < channels; ++c)
            pixel[c] = map[(y * width + x) * channels + c];
}

/* Convolve real inputs with a real kernel, [rows][columns][channels][filters]. */
static void convolve(float *restrict pixel, const float *restrict map, int height, int width, int channels,
                     const float *restrict kernel, int rows, int columns, int filters, int top, int left)
{
    const int first = larger(0, -left), count = smaller(columns, width - left) - first;
    int row, i, f;
    fill(pixel, 0.0f, filters);
    for (row = larger(0, -top); row < smaller(rows, height - top); ++row) {
        const float *inputs = map + ((top + row) * width + left + first) * channels;
        const float *weights = kernel + (row * columns + first) * channels * filters;
        for (i = 0; i < count * channels; ++i)
            for (f = 0; f < filters; ++f)
                pixel[f] += inputs[i] * weights[i * filters + f];
    }
}

/* Store a map as bytes from -127 to 127, and return the scale: x = scale * byte. NaN becomes -127. */
static float quantize(int8_t *restrict bytes, const float *restrict map, int size)
{
    float largest = 0.0f, inverse;
    int i;
    for (i = 0; i < size; ++i) {
        const float magnitude = map[i] < 0.0f ? -map[i] : map[i];
        largest = largest < magnitude ? magnitude : largest;
    }
    inverse = largest > 0.0f ? 127.0f / largest : 0.0f;
    for (i = 0; i < size; ++i) {
        const float value = map[i] * inverse + (map[i] < 0.0f ? -0.5f : 0.5f);
        bytes[i] = (int8_t)(value > 127.0f ? 127 : value > -128.0f ? (int)value : -127);
    }
    return largest / 127.0f;
}

/* Convolve bytes with a kernel of bytes, [filters][rows][columns][channels], and multiply the sums by a scale. */
static void convolve_bytes(float *restrict pixel, const int8_t *restrict map, int height, int width, int channels,
                           const int8_t *restrict kernel, int rows, int columns, int filters, int top, int left,
                           float scale)
{
    const int first = larger(0, -left), count = smaller(columns, width - left) - first;
    const int start = larger(0, -top), end = smaller(rows, height - top);
    int row, i, f;
    for (f = 0; f < filters; ++f) {
        int32_t sum = 0;
        for (row = start; row < end; ++row) {
            const int8_t *inputs = map + ((top + row) * width + left + first) * channels;
            const int8_t *weights = kernel + ((f * rows + row) * columns + first) * channels;
            for (i = 0; i < count * channels; ++i)
                sum += inputs[i] * weights[i];
        }
        pixel[f] = (float)sum * scale;
    }
}

/* Convolve real inputs with a binary kernel: add or subtract. Bits are [rows][columns][channels][filters], 1 is +1. */
static void convolve_signed(float *restrict pixel, const float *restrict map, int height, int width, int channels,
                            const uint32_t *restrict kernel, int rows, int columns, int filters, int top, int left)
{
    const int first = larger(0, -left), count = smaller(columns, width - left) - first;
    int row, i, f;
    fill(pixel, 0.0f, filters);
    for (row = larger(0, -top); row < smaller(rows, height - top); ++row) {
        const float *inputs = map + ((top + row) * width + left + first) * channels;
        const uint32_t start = (uint32_t)((row * columns + first) * channels) * (uint32_t)filters;
        for (i = 0; i < count * channels; ++i)
            for (f = 0; f < filters; ++f) {
                const uint32_t bit = start + (uint32_t)(i * filters + f);
                pixel[f] += (kernel[bit >> 5] >> (bit & 31u)) & 1u ? inputs[i] : -inputs[i];
            }
    }
}

/* Convolve bits with a binary kernel: XNOR and count. Both have `words` words for each pixel; the kernel is
   [filters][rows][columns][words]. Bits beyond `channels` are 0 in both. */
static void convolve_bits(float *restrict pixel, const uint32_t *restrict map, int height, int width, int channels,
                          int words, const uint32_t *restrict kernel, int rows, int columns, int filters, int top,
                          int left)
{
    const int first = larger(0, -left), count = smaller(columns, width - left) - first;
    const int start = larger(0, -top), end = smaller(rows, height - top);
    int row, f;
    for (f = 0; f < filters; ++f) {
        int different = 0;
        for (row = start; row < end; ++row)
            different += differences(map + ((top + row) * width + left + first) * words,
                                     kernel + ((f * rows + row) * columns + first) * words, count * words);
        pixel[f] = (float)((end - start) * count * channels - 2 * different);
    }
}

/* y = scale * x + shift, for each channel. */
static void affine(float *pixel, const float *scale, const float *shift, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] = pixel[c] * scale[c] + shift[c];
}

/* y = scale * x, for each channel. */
static void multiply(float *pixel, const float *scale, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] *= scale[c];
}

/* y = a + b. */
static void add(float *pixel, const float *other, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] += other[c];
}

/* y = the larger of a and b. */
static void maximum(float *pixel, const float *other, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] = pixel[c] < other[c] ? other[c] : pixel[c];
}

/* y = x / divisor. */
static void divide(float *pixel, float divisor, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] /= divisor;
}

/* y = 0 where x < 0. */
static void relu(float *pixel, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] = pixel[c] < 0.0f ? 0.0f : pixel[c];
}

/* y = x between two bounds. */
static void clip(float *pixel, float low, float high, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] = pixel[c] < low ? low : pixel[c] > high ? high : pixel[c];
}

/* y = x between -1 and 1, with a slope of 0.1 outside. */
static void leaky_clip(float *pixel, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] = pixel[c] < -1.0f ? 0.1f * pixel[c] - 0.9f : pixel[c] > 1.0f ? 0.1f * pixel[c] + 0.9f : pixel[c];
}

/* z = x + before; y = z + after where z > 0, else slope * z + after. */
static void shifted_prelu(float *pixel, const float *before, const float *slope, const float *after, int channels)
{
    int c;
    for (c = 0; c < channels; ++c) {
        const float z = pixel[c] + before[c];
        pixel[c] = (z > 0.0f ? z : slope[c] * z) + after[c];
    }
}

/* y = 1 where x >= 0, else -1. */
static void sign(float *pixel, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        pixel[c] = pixel[c] >= 0.0f ? 1.0f : -1.0f;
}

/* Move the values of a pixel behind `before` zeros, and append `after` zeros. */
static void widen(float *pixel, int before, int after, int channels)
{
    int c;
    for (c = channels - 1; c >= 0; --c)
        pixel[c + before] = pixel[c];
    fill(pixel, 0.0f, before);
    fill(pixel + before + channels, 0.0f, after);
}

/* Set all bits of a map to 0. */
static void clear(uint32_t *map, int words)
{
    int i;
    for (i = 0; i < words; ++i)
        map[i] = 0u;
}

/* Set a bit for each value that is not negative, from bit `position` of a cleared map on. */
static void store_signs(uint32_t *map, int position, const float *pixel, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        map[(position + c) >> 5] |= (uint32_t)(pixel[c] >= 0.0f) << ((position + c) & 31);
}

/* Store a pixel in a map. */
static void store(float *map, const float *pixel, int channels)
{
    int c;
    for (c = 0; c < channels; ++c)
        map[c] = pixel[c];
}
