/* A closed-loop CoAP load generator: N requests outstanding on one socket, each answered one replaced by the next.
 *
 *   load HOST PORT SECONDS OUTSTANDING METHOD PATH [CONTENT_FORMAT PAYLOAD [COUNT]]
 *
 * Requests are confirmable. With COUNT, "{}" in PATH and PAYLOAD is a number below COUNT, in turn, and "{+}" the round
 * of turns, six digits. Each response is checked: version, acknowledgement, message ID, token, class 2.xx; an empty
 * acknowledgement is no response, a separate response is taken and acknowledged, a request is rejected. What has not
 * been answered for a second counts as lost and is sent anew. Prints one line of JSON.
 * Build: cc -O2 -o load load.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define MOST 1024
#define BATCH 64
#define BUCKETS 100000 /* of 10 microseconds each */

struct slot {
    uint32_t token;
    uint16_t message_id;
    double sent_at;
    int waits;
};

static struct slot slots[MOST];
static uint32_t histogram[BUCKETS];
static uint16_t next_message_id;
static uint32_t generation;
static short slot_of_message[65536];

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static int add_option(unsigned char *at, int delta, const void *value, int length) {
    int used = 0;
    at[used++] = (unsigned char)(delta << 4 | (length < 13 ? length : 13));
    if (length >= 13) at[used++] = (unsigned char)(length - 13);
    memcpy(at + used, value, length);
    return used + length;
}

/* Copies text, with its places filled in; returns the length. */
static int fill(unsigned char *at, const char *text, int length, unsigned long number, unsigned long round) {
    int used = 0;
    for (int i = 0; i < length; i++) {
        if (i + 1 < length && text[i] == '{' && text[i + 1] == '}') {
            used += sprintf((char *)at + used, "%lu", number);
            i += 1;
        } else if (i + 2 < length && text[i] == '{' && text[i + 1] == '+' && text[i + 2] == '}') {
            used += sprintf((char *)at + used, "%06lu", round);
            i += 2;
        } else {
            at[used++] = (unsigned char)text[i];
        }
    }
    return used;
}

/* Writes a request but for message ID and token; returns its length. */
static int build(unsigned char *request, int method, const char *path, int format, const char *payload,
                 unsigned long turn, unsigned long count) {
    unsigned long number_of_turn = count ? turn % count : 0, round = count ? turn / count + 1 : 1;
    unsigned char segment_bytes[256];
    int number = 0, length = 8;
    request[0] = 0x44; /* version 1, confirmable, token of four bytes */
    request[1] = (unsigned char)method;
    for (const char *segment = path; *segment;) {
        while (*segment == '/') segment++;
        int segment_length = (int)strcspn(segment, "/");
        if (!segment_length) break;
        int filled = fill(segment_bytes, segment, segment_length, number_of_turn, round);
        length += add_option(request + length, 11 - number, segment_bytes, filled);
        number = 11;
        segment += segment_length;
    }
    if (payload) {
        unsigned char value = (unsigned char)format;
        length += add_option(request + length, 12 - number, &value, format ? 1 : 0);
        request[length++] = 0xff;
        length += fill(request + length, payload, (int)strlen(payload), number_of_turn, round);
    }
    return length;
}

static double percentile(uint64_t count, double part) {
    uint64_t seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram[bucket];
        if (seen >= count * part) return bucket * 1e-5;
    }
    return BUCKETS * 1e-5;
}

int main(int argc, char **argv) {
    if (argc != 7 && argc != 9 && argc != 10) {
        fprintf(stderr, "usage: load HOST PORT SECONDS OUTSTANDING METHOD PATH [CONTENT_FORMAT PAYLOAD [COUNT]]\n");
        return 2;
    }
    double seconds = atof(argv[3]);
    int outstanding = atoi(argv[4]);
    if (outstanding < 1 || outstanding > MOST) {
        fprintf(stderr, "OUTSTANDING has to be from 1 to %d\n", MOST);
        return 2;
    }
    int method = atoi(argv[5]), format = argc > 8 ? atoi(argv[7]) : 0;
    const char *payload = argc > 8 && *argv[8] ? argv[8] : NULL;
    unsigned long count = argc > 9 ? strtoul(argv[9], NULL, 10) : 0, turn = 0;

    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) return 2;
    int sock = socket(AF_INET, SOCK_DGRAM, 0);
    int buffer = 4 << 20;
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    if (connect(sock, (struct sockaddr *)&server, sizeof server)) {
        perror("connect");
        return 3;
    }

    static unsigned char out[BATCH][2048], in[BATCH][2048];
    struct mmsghdr out_messages[BATCH], in_messages[BATCH];
    struct iovec out_parts[BATCH], in_parts[BATCH];
    memset(out_messages, 0, sizeof out_messages);
    memset(in_messages, 0, sizeof in_messages);
    for (int i = 0; i < BATCH; i++) {
        out_parts[i] = (struct iovec){out[i], (size_t)build(out[i], method, argv[6], format, payload, 0, count)};
        in_parts[i] = (struct iovec){in[i], sizeof in[i]};
        out_messages[i].msg_hdr.msg_iov = &out_parts[i];
        out_messages[i].msg_hdr.msg_iovlen = 1;
        in_messages[i].msg_hdr.msg_iov = &in_parts[i];
        in_messages[i].msg_hdr.msg_iovlen = 1;
    }
    srand((unsigned)time(NULL));
    next_message_id = (uint16_t)rand();
    generation = (uint32_t)rand() << 8;

    uint64_t answered = 0, lost = 0, wrong = 0;
    int wrong_code = 0;
    double started = now(), ends = started + seconds, at = started, checked = started;
    while (at < ends) {
        int filled = 0;
        for (int i = 0; i < outstanding; i++) {
            struct slot *slot = &slots[i];
            if (slot->waits) continue;
            slot->token = htonl(++generation);
            slot->message_id = next_message_id++;
            slot_of_message[slot->message_id] = (short)i;
            slot->sent_at = at;
            slot->waits = 1;
            if (count) {
                int length = build(out[filled], method, argv[6], format, payload, turn++, count);
                out_parts[filled].iov_len = (size_t)length;
            }
            out[filled][2] = (unsigned char)(slot->message_id >> 8);
            out[filled][3] = (unsigned char)slot->message_id;
            memcpy(out[filled] + 4, &slot->token, 4);
            if (++filled == BATCH) {
                sendmmsg(sock, out_messages, filled, 0);
                filled = 0;
            }
        }
        if (filled) sendmmsg(sock, out_messages, filled, 0);
        struct pollfd waiting = {.fd = sock, .events = POLLIN};
        poll(&waiting, 1, 100);
        int got = recvmmsg(sock, in_messages, BATCH, MSG_DONTWAIT, NULL);
        at = now();
        for (int i = 0; i < got; i++) {
            unsigned char *message = in[i];
            unsigned length = in_messages[i].msg_len;
            if (length == 4 && message[0] == 0x60 && !message[1]) continue; /* the response is to follow */
            if (length >= 4 && message[1] && message[1] < 32) { /* a request: the server takes us for a node */
                unsigned char reset[4] = {0x70, 0, message[2], message[3]};
                if ((message[0] & 0x30) == 0) send(sock, reset, 4, 0);
                continue;
            }
            int is_separate = length >= 8 && (message[0] == 0x44 || message[0] == 0x54);
            uint16_t message_id = (uint16_t)(message[2] << 8 | message[3]);
            struct slot *slot = &slots[slot_of_message[message_id]];
            if (is_separate) {
                for (slot = slots; slot < slots + outstanding - 1 && memcmp(message + 4, &slot->token, 4); slot++);
                unsigned char acknowledgement[4] = {0x60, 0, message[2], message[3]};
                if (message[0] == 0x44) send(sock, acknowledgement, 4, 0);
            }
            if (length < 8 || (message[0] != 0x64 && !is_separate) || message[1] >> 5 != 2 || !slot->waits ||
                (!is_separate && slot->message_id != message_id) || memcmp(message + 4, &slot->token, 4)) {
                wrong++;
                wrong_code = message[1];
                continue;
            }
            int bucket = (int)((at - slot->sent_at) / 1e-5);
            histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
            slot->waits = 0;
            answered++;
        }
        if (at - checked > 0.1) {
            checked = at;
            for (int i = 0; i < outstanding; i++)
                if (slots[i].waits && at - slots[i].sent_at > 1) {
                    slots[i].waits = 0;
                    lost++;
                }
        }
    }
    double took = at - started;
    printf("{\"answered\": %llu, \"seconds\": %.3f, \"rate\": %.0f, \"lost\": %llu, \"wrong\": %llu, "
           "\"wrong_code\": \"%d.%02d\", \"p50\": %.5f, \"p99\": %.5f}\n",
           (unsigned long long)answered, took, answered / took, (unsigned long long)lost, (unsigned long long)wrong,
           wrong_code >> 5, wrong_code & 31, percentile(answered, 0.5), percentile(answered, 0.99));
    return 0;
}
