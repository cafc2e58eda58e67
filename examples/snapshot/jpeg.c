/* A baseline JPEG encoder: see jpeg.h.
 *
 * Follows ITU-T T.81. A picture is cut into units of 16x16 samples: four blocks of luma and one
 * each of Cb and Cr. Each block goes through the discrete cosine transform (A.3.3), quantisation
 * (A.3.4) and Huffman coding (F.1.2). All arithmetic is in integers, so that the same picture gives
 * the same bytes on every machine.
 */

#include "jpeg.h"

#include <stdlib.h>
#include <string.h>

/* Figure A.6: the position in a block (row * 8 + column) of each coefficient in zig-zag order. */
static const uint8_t zigzag[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* Tables K.1 and K.2: quantisation of luma and chroma at quality 50, row by row. */
static const uint8_t quantisation[2][64] = {
    {16, 11, 10, 16, 24,  40,  51,  61,  12, 12, 14, 19, 26,  58,  60,  55,
     14, 13, 16, 24, 40,  57,  69,  56,  14, 17, 22, 29, 51,  87,  80,  62,
     18, 22, 37, 56, 68,  109, 103, 77,  24, 35, 55, 64, 81,  104, 113, 92,
     49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99},
    {17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99,
     24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99,
     99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
     99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99}};

/* A Huffman table as a file holds it (B.2.4.2): how many codes there are of 1 to 16 bits, and the
 * symbols in the order of their codes. */
struct huffman_definition {
    uint8_t counts[16];
    uint8_t symbols[162];
};

/* Tables K.3 to K.6; index 2 * chroma + AC. */
static const struct huffman_definition definitions[4] = {
    {{0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
    {{0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125},
     {0x01, 0x02, 0x03, 0x00, 0x04, 0x11, 0x05, 0x12, 0x21, 0x31, 0x41, 0x06, 0x13, 0x51, 0x61,
      0x07, 0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 0x08, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52,
      0xd1, 0xf0, 0x24, 0x33, 0x62, 0x72, 0x82, 0x09, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25,
      0x26, 0x27, 0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45,
      0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64,
      0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83,
      0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
      0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6,
      0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3,
      0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8,
      0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa}},
    {{0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}},
    {{0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119},
     {0x00, 0x01, 0x02, 0x03, 0x11, 0x04, 0x05, 0x21, 0x31, 0x06, 0x12, 0x41, 0x51, 0x07, 0x61,
      0x71, 0x13, 0x22, 0x32, 0x81, 0x08, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 0x09, 0x23, 0x33,
      0x52, 0xf0, 0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18,
      0x19, 0x1a, 0x26, 0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44,
      0x45, 0x46, 0x47, 0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63,
      0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a,
      0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97,
      0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4,
      0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca,
      0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7,
      0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0xfa}}};

struct code {
    uint16_t bits;
    uint16_t length;
};

struct jpeg {
    int width;
    int height;
    uint8_t divisors[2][64];      /* quantisation at the wanted quality, row by row */
    struct code codes[4][256];    /* by table and symbol */
    uint8_t *bytes;               /* the picture so far */
    size_t length;
    uint32_t pending;             /* bits that do not fill a byte yet, in the lowest places */
    int pending_count;
    int previous[3];              /* the DC coefficient of the component's block before */
};

/* ------------------------------------------------------------------ bytes and bits */

static void put_byte(struct jpeg *encoder, int byte) {
    encoder->bytes[encoder->length++] = (uint8_t)byte;
}

static void put_word(struct jpeg *encoder, int word) {
    put_byte(encoder, word >> 8);
    put_byte(encoder, word & 0xff);
}

/* Adds at most 16 bits. A byte 0xff is followed by a zero, or it would look like a marker
 * (F.1.2.3). */
static void put_bits(struct jpeg *encoder, uint32_t bits, int count) {
    encoder->pending = encoder->pending << count | bits;
    encoder->pending_count += count;
    while (encoder->pending_count >= 8) {
        encoder->pending_count -= 8;
        int byte = (int)(encoder->pending >> encoder->pending_count & 0xff);
        put_byte(encoder, byte);
        if (byte == 0xff) {
            put_byte(encoder, 0);
        }
    }
}

/* ------------------------------------------------------------------ tables */

/* Annex C: codes of one length are consecutive, the first of the next length follows on doubled. */
static void make_codes(struct code *codes, const struct huffman_definition *definition) {
    const uint8_t *symbol = definition->symbols;
    uint16_t next = 0;
    for (uint16_t length = 1; length <= 16; length++) {
        for (int i = 0; i < definition->counts[length - 1]; i++) {
            codes[*symbol++] = (struct code){next++, length};
        }
        next = (uint16_t)(next << 1);
    }
}

/* Percent of the divisors at quality 50: 50 % at quality 75, 200 % at quality 25. */
static void make_divisors(struct jpeg *encoder, int quality) {
    int percent = quality < 50 ? 5000 / quality : 200 - 2 * quality;
    for (int table = 0; table < 2; table++) {
        for (int i = 0; i < 64; i++) {
            int divisor = (quantisation[table][i] * percent + 50) / 100;
            encoder->divisors[table][i] = (uint8_t)(divisor < 1     ? 1
                                                    : divisor > 255 ? 255
                                                                    : divisor);
        }
    }
}

struct jpeg *jpeg_new(int width, int height, int quality) {
    struct jpeg *encoder = calloc(1, sizeof *encoder);
    if (encoder == NULL) {
        return NULL;
    }
    encoder->width = width;
    encoder->height = height;
    make_divisors(encoder, quality);
    for (int table = 0; table < 4; table++) {
        make_codes(encoder->codes[table], &definitions[table]);
    }
    /* A coefficient takes at most 16 + 11 bits, twice that if every byte is 0xff. The headers get
     * 1024 bytes. */
    size_t units = (size_t)((width + 15) / 16) * (size_t)((height + 15) / 16);
    encoder->bytes = malloc(units * 6 * 64 * 7 + 1024);
    return encoder->bytes != NULL ? encoder : NULL;
}

/* ------------------------------------------------------------------ one block */

/* One dimension of the transform: 8 values, `step` apart. Even and odd outputs are made of sums and
 * differences of mirrored inputs, since the cosines are (anti)symmetric. `shift` of the table's 13
 * fraction bits are taken away again, rounded. */
static void transform(int *values, int step, int shift) {
    /* 2^13 * c(k)/2 * cos((2n + 1) k pi / 16), for n = 0..3. */
    static const int cosines[8][4] = {
        {2896, 2896, 2896, 2896},   {4017, 3406, 2276, 799},    {3784, 1567, -1567, -3784},
        {3406, -799, -4017, -2276}, {2896, -2896, -2896, 2896}, {2276, -4017, 799, 3406},
        {1567, -3784, 3784, -1567}, {799, -2276, 3406, -4017}};
    int mirrored[2][4];
    for (int n = 0; n < 4; n++) {
        mirrored[0][n] = values[n * step] + values[(7 - n) * step];
        mirrored[1][n] = values[n * step] - values[(7 - n) * step];
    }
    for (int k = 0; k < 8; k++) {
        const int *input = mirrored[k & 1];
        int sum = 1 << (shift - 1);
        for (int n = 0; n < 4; n++) {
            sum += cosines[k][n] * input[n];
        }
        values[k * step] = sum >> shift;
    }
}

/* Takes an 8x8 block out of a plane and subtracts 128. Beyond the edge it repeats the last
 * sample. */
static void fetch(int *block, const uint8_t *plane, int width, int height, int left, int top) {
    for (int row = 0; row < 8; row++) {
        int y = top + row < height ? top + row : height - 1;
        for (int column = 0; column < 8; column++) {
            int x = left + column < width ? left + column : width - 1;
            block[row * 8 + column] = plane[y * width + x] - 128;
        }
    }
}

/* The coefficients keep 3 fraction bits up to here, so the division is by 8 * divisor, rounded to
 * the nearest. */
static int quantise(int coefficient, int divisor) {
    int magnitude = coefficient < 0 ? -coefficient : coefficient;
    int level = (magnitude + 4 * divisor) / (8 * divisor);
    return coefficient < 0 ? -level : level;
}

/* A value is coded as its size in bits and then its bits; a negative one as value - 1 (F.1.2.1). */
static int size_in_bits(int value) {
    unsigned magnitude = (unsigned)(value < 0 ? -value : value);
    return magnitude == 0 ? 0 : 32 - __builtin_clz(magnitude);
}

static void put_symbol(struct jpeg *encoder, int table, int symbol) {
    struct code code = encoder->codes[table][symbol];
    put_bits(encoder, code.bits, code.length);
}

static void put_value(struct jpeg *encoder, int value, int size) {
    put_bits(encoder, (uint32_t)(value < 0 ? value - 1 : value) & ((1u << size) - 1), size);
}

static void encode_block(struct jpeg *encoder, int component, const uint8_t *plane, int width,
                         int height, int left, int top) {
    int block[64];
    fetch(block, plane, width, height, left, top);
    for (int row = 0; row < 8; row++) {
        transform(block + row * 8, 1, 10);
    }
    for (int column = 0; column < 8; column++) {
        transform(block + column, 8, 13);
    }

    int chroma = component != 0;
    const uint8_t *divisors = encoder->divisors[chroma];
    int dc = quantise(block[0], divisors[0]);
    int difference = dc - encoder->previous[component];
    encoder->previous[component] = dc;
    int size = size_in_bits(difference);
    put_symbol(encoder, 2 * chroma, size);
    put_value(encoder, difference, size);

    int zeros = 0;
    for (int i = 1; i < 64; i++) {
        int value = quantise(block[zigzag[i]], divisors[zigzag[i]]);
        if (value == 0) {
            zeros++;
            continue;
        }
        for (; zeros >= 16; zeros -= 16) {
            put_symbol(encoder, 2 * chroma + 1, 0xf0); /* sixteen zeros */
        }
        size = size_in_bits(value);
        put_symbol(encoder, 2 * chroma + 1, zeros << 4 | size);
        put_value(encoder, value, size);
        zeros = 0;
    }
    if (zeros > 0) {
        put_symbol(encoder, 2 * chroma + 1, 0x00); /* nothing but zeros from here */
    }
}

/* ------------------------------------------------------------------ one picture */

/* A component's description in the frame header: its number, sampling factors and table. */
static void put_component(struct jpeg *encoder, int number, int sampling, int table) {
    put_byte(encoder, number);
    put_byte(encoder, sampling);
    put_byte(encoder, table);
}

static void put_headers(struct jpeg *encoder) {
    static const uint8_t jfif[] = {0xff, 0xd8, 0xff, 0xe0, 0, 16, 'J', 'F', 'I', 'F',
                                   0,    1,    1,    0,    0, 1,  0,   1,   0,   0};
    memcpy(encoder->bytes, jfif, sizeof jfif);
    encoder->length = sizeof jfif;

    for (int table = 0; table < 2; table++) { /* DQT, B.2.4.1 */
        put_word(encoder, 0xffdb);
        put_word(encoder, 2 + 1 + 64);
        put_byte(encoder, table);
        for (int i = 0; i < 64; i++) {
            put_byte(encoder, encoder->divisors[table][zigzag[i]]);
        }
    }
    put_word(encoder, 0xffc0); /* SOF0, B.2.2 */
    put_word(encoder, 2 + 6 + 3 * 3);
    put_byte(encoder, 8);
    put_word(encoder, encoder->height);
    put_word(encoder, encoder->width);
    put_byte(encoder, 3);
    put_component(encoder, 1, 0x22, 0);
    put_component(encoder, 2, 0x11, 1);
    put_component(encoder, 3, 0x11, 1);

    for (int table = 0; table < 4; table++) { /* DHT, B.2.4.2 */
        int count = table & 1 ? 162 : 12;
        put_word(encoder, 0xffc4);
        put_word(encoder, 2 + 1 + 16 + count);
        put_byte(encoder, (table & 1) << 4 | table >> 1); /* class and number */
        memcpy(encoder->bytes + encoder->length, definitions[table].counts, 16);
        memcpy(encoder->bytes + encoder->length + 16, definitions[table].symbols, (size_t)count);
        encoder->length += 16 + (size_t)count;
    }
    put_word(encoder, 0xffda); /* SOS, B.2.3 */
    put_word(encoder, 2 + 1 + 3 * 2 + 3);
    put_byte(encoder, 3);
    put_word(encoder, 0x0100);
    put_word(encoder, 0x0211);
    put_word(encoder, 0x0311);
    put_byte(encoder, 0);
    put_byte(encoder, 63);
    put_byte(encoder, 0);
}

size_t jpeg_encode(struct jpeg *encoder, const struct picture *picture, const uint8_t **bytes) {
    put_headers(encoder);
    memset(encoder->previous, 0, sizeof encoder->previous);
    for (int top = 0; top < encoder->height; top += 16) {
        for (int left = 0; left < encoder->width; left += 16) {
            for (int part = 0; part < 4; part++) {
                encode_block(encoder, 0, picture->planes[0], picture->width, picture->height,
                             left + 8 * (part & 1), top + 8 * (part >> 1));
            }
            for (int component = 1; component < 3; component++) {
                encode_block(encoder, component, picture->planes[component],
                             plane_width(picture, component), plane_height(picture, component),
                             left / 2, top / 2);
            }
        }
    }
    if (encoder->pending_count > 0) { /* fill the last byte with ones */
        int missing = 8 - encoder->pending_count;
        put_bits(encoder, (1u << missing) - 1, missing);
    }
    put_word(encoder, 0xffd9);
    *bytes = encoder->bytes;
    return encoder->length;
}
