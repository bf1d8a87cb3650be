// Keeps requests going through a gateway on 127.0.0.1, and counts and times the answers: one thread, epoll.
//
//   load -p PORT -c CONNECTIONS -w WARM_UP_SECONDS -d SECONDS [-s] [-o] [-n EVENTS -i INTERVAL_US]
//
//   -n  ask for a stream of so many events, one each INTERVAL_US microseconds (see engine.c); otherwise for one JSON answer
//   -s  send the headers of OpenAI's Python client
//   -o  one request per connection, instead of the next as soon as one is answered
//
// Three lines of JSON: how many streams are open when the warm-up ends; what was counted when the window ends (with -o: when
// all is answered); then times in microseconds and `bad`, which counts from the start whatever is not a whole answer with
// status 200 and, in a stream, every event. The load goes on for a moment after the second line, so that the one who reads
// it can look at the gateway before connections are closed. Ends with its parent.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_BYTES = 4096, BATCH = 512, SAMPLES = 1 << 22, LINGER_US = 200000, OPENING = 64 /* at once: past a backlog, which may be 128, `connect` waits for seconds */ };

typedef enum { HEAD, BODY, CHUNKS, DONE } phase;

typedef struct {
    int fd;
    phase phase;
    int status, closes, fresh;
    long left;             // bytes of the body, or of a chunk
    long size, line;       // of a chunk: its size, and the length of the line that says so
    int last_chunk;
    long newlines;         // two per event
    long asked, heard;     // when, in microseconds
    size_t used;
    char head[HEAD_BYTES];
} conn;

typedef struct {
    uint32_t *values; // tenths of a microsecond
    size_t count;
} samples;

static int port, connections = 1, sdk, once;
static int opening; // connections are opened, and ask only when all are: those that ask on and on would slow the opening
static long events, interval;
static double warm_up = 0.5, window = 1;

static char request[4096];
static size_t request_size;
static int epoll, measuring;
static conn *all;
static long now, answers, chunks, bad, ended, unheard;
static samples latency, gap;

static const char *SDK = "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
                         "X-Stainless-Lang: python\r\nX-Stainless-Package-Version: 2.8.1\r\nX-Stainless-OS: Linux\r\n"
                         "X-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\nX-Stainless-Runtime-Version: 3.11.7\r\n"
                         "X-Stainless-Async: async:asyncio\r\nx-stainless-retry-count: 0\r\nx-stainless-read-timeout: 600\r\n";

static long microseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static void add(samples *s, long microseconds) {
    if (!s->values) s->values = malloc(SAMPLES * sizeof *s->values);
    if (measuring && s->count < SAMPLES) s->values[s->count++] = microseconds * 10;
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, samples *s) {
    if (!s->count) return;
    qsort(s->values, s->count, sizeof *s->values, ascending);
    printf(",\"%s_p50\":%.1f,\"%s_p99\":%.1f", name, s->values[s->count / 2] / 10., name, s->values[s->count * 99 / 100] / 10.);
}

static void write_request(void) {
    char body[1024];
    int size = sprintf(body, "{\"model\":\"mock-model\",\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant."
                             "\"},{\"role\":\"user\",\"content\":\"mock: %ld events every %ld us\"}],\"temperature\":0.7,"
                             "\"max_tokens\":256,\"stream\":%s}", events, interval, events ? "true" : "false");
    request_size = sprintf(request, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: load/1.0\r\nAccept: "
                                    "*/*\r\nAuthorization: Bearer sk-unused-0123456789\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s",
                           port, sdk ? SDK : "", size, body);
}

static void ask(conn *c) {
    c->phase = HEAD;
    c->newlines = c->heard = c->last_chunk = c->line = c->size = 0;
    c->used = 0;
    c->asked = now;
    if (send(c->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) c->closes = 1; // its end is read next
}

static void open_connection(conn *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&address, sizeof address)) fail("load: connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event wanted = {EPOLLIN, {.ptr = c}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &wanted);
    c->closes = 0;
    if (!opening) {
        c->fresh = 1;
        unheard++;
        ask(c);
    }
}

static void hear_from(conn *c) {
    unheard -= c->fresh;
    c->fresh = 0;
}

static void finish(conn *c, int whole) {
    int good = whole && c->status == 200 && (!events || c->newlines == 2 * (events + 1));
    if (!good && !bad++)
        fprintf(stderr, "load: bad answer: status %d, %s, %ld events\n", c->status, whole ? "whole" : "cut", c->newlines / 2);
    hear_from(c);
    c->phase = DONE;
    ended++;
    answers += measuring && good;
    if (good) add(&latency, now - c->asked);
    if (c->closes || !whole) {
        close(c->fd);
        c->fd = -1;
    }
    if (once) return;
    if (c->fd < 0)
        open_connection(c);
    else
        ask(c);
}

static void count_events(conn *c, const char *data, size_t size) {
    long before = c->newlines;
    for (const char *p = data, *end = data + size; (p = memchr(p, '\n', end - p)); p++) c->newlines++;
    if (!events || c->newlines == before) return;
    if (c->heard && interval) add(&gap, now - c->heard);
    c->heard = now;
    if (measuring) chunks += (c->newlines - before) / 2;
}

// Reads the head once it is whole; returns how much of `data` belonged to it.
static size_t read_head(conn *c, const char *data, size_t size) {
    size_t before = c->used, room = HEAD_BYTES - 1 - before, part = size < room ? size : room;
    memcpy(c->head + before, data, part);
    c->head[c->used += part] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        if (part < size) fail("load: a head is too long");
        return size;
    }
    end[2] = 0;
    hear_from(c);
    char *length = strcasestr(c->head, "\ncontent-length:");
    c->status = atoi(c->head + 9);
    c->closes = strcasestr(c->head, "\nconnection: close") != NULL;
    c->left = length ? atol(length + 16) : 0;
    c->phase = strcasestr(c->head, "\ntransfer-encoding: chunked") ? CHUNKS : BODY;
    return end + 4 - c->head - before;
}

// Reads a line of chunked framing: a size, the end of a chunk, a trailer field or the end.
static size_t read_line(conn *c, const char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        int letter = data[i];
        if (letter == '\r') continue;
        if (letter != '\n') {
            c->line++;
            c->size = c->size * 16 + (isdigit(letter) ? letter - '0' : (letter | 32) - 'a' + 10);
            continue;
        }
        if (c->last_chunk && !c->line) {
            finish(c, 1);
        } else if (c->line && !c->last_chunk) {
            c->left = c->size;
            c->last_chunk = !c->size;
        }
        c->line = c->size = 0;
        return i + 1;
    }
    return size;
}

static void read_answer(conn *c, const char *data, size_t size) {
    while (size && c->phase != DONE) {
        size_t step;
        if (c->phase == HEAD) {
            step = read_head(c, data, size);
            if (c->phase == BODY && !c->left) finish(c, 1);
        } else if (c->left) {
            step = size < (size_t)c->left ? size : (size_t)c->left;
            count_events(c, data, step);
            c->left -= step;
            if (!c->left && c->phase == BODY) finish(c, 1);
        } else {
            step = read_line(c, data, size);
        }
        data += step;
        size -= step;
    }
}

static void hear(conn *c) {
    static char buffer[1 << 18];
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n > 0) {
        now = microseconds();
        read_answer(c, buffer, n);
    } else if (n == 0 || errno != EAGAIN) {
        if (c->phase != DONE) {
            finish(c, 0);
        } else {
            close(c->fd);
            c->fd = -1;
        }
    }
}

static void wait_until(long end, int all_answered) {
    struct epoll_event found[BATCH];
    while ((now = microseconds()) < end && !(all_answered && ended >= connections)) {
        int n = epoll_wait(epoll, found, BATCH, 1 + (end - now) / 1000 < 50 ? 1 + (end - now) / 1000 : 50);
        now = microseconds();
        for (int i = 0; i < n; i++) hear(found[i].data.ptr);
    }
}

static long open_streams(void) {
    long open = 0;
    for (int i = 0; i < connections; i++) open += all[i].phase != DONE && all[i].newlines > 0;
    return open;
}

static int read_options(int count, char **arguments) {
    for (int option; (option = getopt(count, arguments, "p:c:w:d:n:i:so")) != -1;) {
        if (option == 'p') port = atoi(optarg);
        else if (option == 'c') connections = atoi(optarg);
        else if (option == 'w') warm_up = atof(optarg);
        else if (option == 'd') window = atof(optarg);
        else if (option == 'n') events = atol(optarg);
        else if (option == 'i') interval = atol(optarg);
        else if (option == 's') sdk = 1;
        else if (option == 'o') once = 1;
        else return 0;
    }
    return port > 0 && port < 65536 && connections > 0 && connections <= 10000 && warm_up >= 0 && window > 0 &&
           warm_up + window <= 300 && events >= 0 && interval >= 0;
}

int main(int count, char **arguments) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!read_options(count, arguments)) {
        fprintf(stderr, "load: an option is missing or out of bounds; see the head of load.c\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    alarm(warm_up + window + 60 + connections / 20);
    epoll = epoll_create1(0);
    all = calloc(connections, sizeof *all);
    write_request();
    now = microseconds();
    opening = !once;
    for (int i = 0; i < connections; i++) {
        open_connection(all + i);
        if (opening && i % OPENING == OPENING - 1) usleep(20000);
        while (unheard >= OPENING) wait_until(microseconds() + 1000, 0);
    }
    now = microseconds();
    for (int i = 0; opening && i < connections; i++) ask(all + i);
    opening = 0;
    long start = microseconds() + warm_up * 1e6;
    wait_until(start, 0);
    measuring = 1;
    printf("{\"open\":%ld}\n", open_streams());
    fflush(stdout);
    start = microseconds();
    wait_until(start + window * 1e6, once);
    if (once) bad += connections - ended;
    double seconds = (microseconds() - start) / 1e6;
    printf("{\"seconds\":%.4f,\"answers\":%ld,\"chunks\":%ld}\n", seconds, answers, chunks);
    fflush(stdout);
    measuring = 0;
    wait_until(microseconds() + LINGER_US, 0);
    printf("{\"bad\":%ld", bad);
    print_samples("latency", &latency);
    print_samples("gap", &gap);
    printf("}\n");
    return 0;
}
