/* Text: lines cut into words, numbers read and written, a search, a glob, UTF-8, a small reader of
 * JSON. */
#include "../kernels/kernel.h"

static char buffer[4096], other[4096];

static NOINLINE uint32_t length(const char *s) {
  const char *p = s;
  while (*p) p++;
  return (uint32_t)(p - s);
}
static NOINLINE int compare(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return (uint8_t)*a - (uint8_t)*b;
}
static NOINLINE char *copy(char *to, const char *from) {
  while ((*to = *from)) to++, from++;
  return to;
}
static NOINLINE char *decimal(char *to, int64_t value) {
  char digits[24];
  uint32_t n = 0;
  uint64_t left = value < 0 ? (uint64_t)-value : (uint64_t)value;
  do digits[n++] = (char)('0' + left % 10);
  while (left /= 10);
  if (value < 0) *to++ = '-';
  while (n) *to++ = digits[--n];
  *to = 0;
  return to;
}
static NOINLINE const char *find(const char *hay, const char *needle) {
  for (; *hay; hay++) {
    uint32_t i = 0;
    while (needle[i] && hay[i] == needle[i]) i++;
    if (!needle[i]) return hay;
  }
  return 0;
}
static NOINLINE int matches(const char *pattern, const char *text) {
  const char *star = 0, *from = 0;
  while (*text) {
    if (*pattern == '*')
      star = pattern++, from = text;
    else if (*pattern == '?' || *pattern == *text)
      pattern++, text++;
    else if (star)
      pattern = star + 1, text = ++from;
    else
      return 0;
  }
  while (*pattern == '*') pattern++;
  return !*pattern;
}
static NOINLINE uint32_t points(const char *s) {
  uint32_t n = 0;
  for (; *s; s++) n += (*s & 0xC0) != 0x80;
  return n;
}

typedef struct {
  const char *at;
  uint32_t depth, values;
} reader;
static NOINLINE int value(reader *r) {
  while (*r->at == ' ' || *r->at == ',' || *r->at == ':') r->at++;
  r->values++;
  switch (*r->at) {
    case '{':
    case '[':
      r->depth++;
      r->at++;
      return 1;
    case '}':
    case ']':
      r->depth--;
      r->at++;
      return 1;
    case '"':
      for (r->at++; *r->at && *r->at != '"'; r->at++)
        if (*r->at == '\\') r->at++;
      if (*r->at) r->at++;
      return 1;
    case '-':
    case '0': case '1': case '2': case '3': case '4':
    case '5': case '6': case '7': case '8': case '9': {
      double sum = 0, scale = 1;
      int fraction = 0;
      for (r->at++; (*r->at >= '0' && *r->at <= '9') || *r->at == '.'; r->at++) {
        if (*r->at == '.') {
          fraction = 1;
          continue;
        }
        sum = sum * 10 + (*r->at - '0');
        if (fraction) scale *= 10;
      }
      r->values += (uint32_t)(sum / scale);
      return 1;
    }
    case 't':
    case 'n': r->at += 4; return 1;
    case 'f': r->at += 5; return 1;
    default: return 0;
  }
}

uint32_t run(uint32_t n) {
  static const char sample[] =
      "{\"name\": \"wanderer\", \"ages\": [1, 22, 333, -4.5], "
      "\"deep\": {\"yes\": true, \"no\": null}}";
  uint32_t sum = 0;
  for (uint32_t i = 0; i < n; i++) {
    char *to = buffer;
    for (uint32_t k = 0; k < 20; k++) {
      to = decimal(to, (int64_t)(i * k) - 300);
      to = copy(to, k % 3 ? " quick " : " br\xc3\xb6wn ");
    }
    copy(other, buffer);
    sum += length(buffer) + points(other) + (uint32_t)(compare(buffer, other) == 0);
    sum += find(buffer, "ck -2") != 0;
    sum += (uint32_t)matches("*br*wn*quick", other);
    reader r = {sample, 0, 0};
    while (*r.at && value(&r)) continue;
    sum += r.values;
  }
  return sum;
}
