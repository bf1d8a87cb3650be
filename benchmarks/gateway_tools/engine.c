// A stand-in for an OpenAI-compatible engine, to measure gateways with: one thread, epoll, 127.0.0.1 only.
//
//   engine SECONDS      prints the port it took; ends after SECONDS, or with its parent
//
// POST gets a JSON answer, or with "stream":true server-sent events. The prompt says how many and how often, because a
// prompt is what every gateway passes on: "mock: 200 events every 20000 us". GET gets what makes a healthy engine.
//
// The first event comes with the head; each other one is a write of its own, as engines do it. The second one comes at another
// part of the interval for each stream, so that streams opened together do not tick together.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST_BYTES = 8192, TICKS = 8192, BATCH = 512, TICK_US = 1000 };

typedef struct {
    char bytes[1024];
    size_t size;
} text;

typedef struct conn {
    int fd;             // -1: closed; freed when it is next found in a list
    int listed;         // it is in `ready` or in a tick
    int streaming;
    long left;          // events still to be sent
    long interval, due; // microseconds
    struct conn *next;  // in its list
    const char *out;    // what is being written, of the texts below
    size_t out_size;
    size_t used;
    char in[REQUEST_BYTES];
} conn;

static text head, event, last, answer, healthy;
static int epoll;
static conn *ready;        // streams without an interval
static conn *ticks[TICKS]; // the others, by the millisecond of their next event
static long tick, now, streams, timed;

static long microseconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void enlist(conn *c) {
    conn **list = &ready;
    if (c->interval) {
        long when = c->due / TICK_US;
        list = &ticks[(when > tick ? when : tick + 1) % TICKS];
        timed++;
    }
    c->next = *list;
    *list = c;
    c->listed = 1;
}

static void drop(conn *c) {
    close(c->fd);
    c->fd = -1;
    if (c->listed) return;
    c->interval = 0;
    enlist(c);
}

// Writes what is pending. Returns 0 when something is left for later, or when the connection is gone.
static int written(conn *c) {
    while (c->out_size) {
        ssize_t n = send(c->fd, c->out, c->out_size, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno != EAGAIN) drop(c);
            return 0;
        }
        c->out += n;
        c->out_size -= n;
    }
    return 1;
}

static void put(conn *c, const text *t) {
    c->out = t->bytes;
    c->out_size = t->size;
}

// After each event, and when the peer can take more: finish the stream or wait for its next event.
static void go_on(conn *c) {
    if (!written(c) || !c->streaming) return;
    if (c->left) {
        enlist(c);
    } else {
        c->streaming = 0;
        put(c, &last);
        written(c);
    }
}

// The events that are due in a list.
static void send_events(conn **list) {
    conn *c = *list, *following;
    *list = NULL;
    for (; c; c = following) {
        following = c->next;
        c->listed = 0;
        timed -= c->interval > 0;
        if (c->fd < 0) {
            free(c);
            continue;
        }
        c->left--;
        c->due += c->interval;
        put(c, &event);
        go_on(c);
    }
}

static void start_stream(conn *c, const char *prompt) {
    if (sscanf(prompt, "mock: %ld events every %ld us", &c->left, &c->interval) != 2 || c->left < 1) c->left = 1, c->interval = 0;
    if (c->interval > (TICKS - 2) * TICK_US) c->interval = (TICKS - 2) * TICK_US;
    c->left--;
    c->due = now + c->interval * (streams++ % 64) / 64;
    c->streaming = 1;
    put(c, &head);
    go_on(c);
}

// Answers the request in the buffer, once it is whole.
static void take_request(conn *c) {
    c->in[c->used] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return;
    *end = 0;
    char *length = strcasestr(c->in, "\ncontent-length:");
    *end = '\r';
    size_t body = end + 4 - c->in, size = body + (length ? strtoul(length + 16, NULL, 10) : 0);
    if (c->used < size) return;
    c->used = 0; // clients that send a request before they have read an answer are not served
    if (c->in[0] == 'G') {
        put(c, &healthy);
    } else if (strstr(c->in + body, "\"stream\":true")) {
        char *prompt = strstr(c->in + body, "mock: ");
        start_stream(c, prompt ? prompt : "");
        return;
    } else {
        put(c, &answer);
    }
    written(c);
}

static void read_more(conn *c) {
    for (;;) {
        ssize_t n = read(c->fd, c->in + c->used, REQUEST_BYTES - 1 - c->used);
        if (n < 0 && errno == EAGAIN) return;
        if (n <= 0) {
            drop(c);
            return;
        }
        c->used += n;
        if (c->streaming || c->out_size) continue;
        take_request(c);
        if (c->fd < 0) return;
    }
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        conn *c = calloc(1, sizeof *c);
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event wanted = {EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.ptr = c}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &wanted);
    }
}

static int listening(void) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(fd, (void *)&address, size) || listen(fd, 4096) || getsockname(fd, (void *)&address, &size)) {
        perror("engine");
        exit(1);
    }
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return fd;
}

static void add_chunk(text *t, const char *data) {
    t->size += sprintf(t->bytes + t->size, "%zx\r\n%s\r\n", strlen(data), data);
}

static void set_json(text *t, const char *json) {
    const char *form = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s";
    t->size = sprintf(t->bytes, form, strlen(json), json);
}

// Lengths as they are in practice: an event of about 210 bytes, an answer of about 400.
static void write_texts(void) {
    head.size = sprintf(head.bytes, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                                    "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n");
    add_chunk(&event, "data: {\"id\":\"chatcmpl-6f1c2a9be04d47d8a1b35c70e9f2d813\",\"object\":\"chat.completion.chunk\","
                      "\"created\":1764000000,\"model\":\"mock-model\",\"choices\":[{\"index\":0,\"delta\":"
                      "{\"content\":\" water\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n");
    memcpy(head.bytes + head.size, event.bytes, event.size);
    head.size += event.size;
    add_chunk(&last, "data: [DONE]\n\n");
    last.size += sprintf(last.bytes + last.size, "0\r\n\r\n");
    set_json(&answer, "{\"id\":\"chatcmpl-6f1c2a9be04d47d8a1b35c70e9f2d813\",\"object\":\"chat.completion\","
                      "\"created\":1764000000,\"model\":\"mock-model\",\"choices\":[{\"index\":0,\"message\":{\"role\":"
                      "\"assistant\",\"content\":\"A headrace is the channel that leads water to the wheel of a mill.\"},"
                      "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":28,"
                      "\"completion_tokens\":16,\"total_tokens\":44}}");
    set_json(&healthy, "{\"status\":\"ok\",\"object\":\"list\",\"model_path\":\"mock-model\",\"data\":[{\"id\":"
                       "\"mock-model\",\"object\":\"model\",\"created\":1764000000,\"owned_by\":\"mock\"}]}");
}

int main(int count, char **arguments) {
    if (count != 2 || atoi(arguments[1]) < 1) {
        fprintf(stderr, "usage: engine SECONDS\n");
        return 2;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(atoi(arguments[1]));
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    write_texts();
    int listener = listening();
    epoll = epoll_create1(0);
    struct epoll_event events[BATCH], wanted = {EPOLLIN, {.ptr = NULL}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wanted);
    tick = microseconds() / TICK_US;
    for (;;) {
        int n = epoll_wait(epoll, events, BATCH, ready ? 0 : timed ? 1 : -1);
        now = microseconds();
        if (!timed) tick = now / TICK_US;
        for (int i = 0; i < n; i++) {
            conn *c = events[i].data.ptr;
            if (!c) {
                accept_all(listener);
            } else if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) {
                read_more(c);
            } else if (c->out_size) {
                go_on(c);
            }
        }
        while (tick < now / TICK_US) send_events(&ticks[++tick % TICKS]);
        send_events(&ready);
    }
}
