/*
 * Load generator for policy servers: many persistent connections, one request in hand on each, as
 * smtpd processes do it.
 *
 * Closed loop: every connection sends its next request when the last one is answered; the figure is
 * the throughput. Open loop (--rate): requests fall due at a fixed rate and latency counts from the
 * moment that a request was due, so that a server which stalls cannot hide it by slowing its clients.
 *
 * Prints one JSON object. Exit status: 0, 1 when the server cannot be reached or answers nonsense,
 * 2 for usage.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_CONNECTIONS 10000
#define MAX_REQUEST 2048
#define MAX_REPLY 1024
#define RETRY_NS 10000000 /* between two attempts to connect */

/* ---- options ---- */

static const char *host = "127.0.0.1", *socket_path, *workload_file, *state = "END-OF-MESSAGE";
static int port = 10045;
static int connections = 100;
static double warm_up, seconds = 10, rate, step = 1;
static uint64_t count;     /* stop after this many measured requests; 0: after `seconds` */
static uint64_t offset;    /* into the workload file; without one every client is new, counting up from 12.0.0.0 plus this */

/* ---- the clock ---- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- latencies: a histogram of 64 steps in each power of two microseconds, at most 1.6% off ---- */

#define STEPS 64
#define CELLS (STEPS * 30)

struct histogram {
	uint64_t cells[CELLS];
	uint64_t number, sum, max; /* microseconds */
};

static int cell_of(uint64_t us)
{
	int shift = 0;

	while (us >> shift >= 2 * STEPS)
		shift++;
	int cell = shift * STEPS + (int)(us >> shift);
	return cell < CELLS ? cell : CELLS - 1;
}

static uint64_t value_of(int cell)
{
	int shift = cell < 2 * STEPS ? 0 : cell / STEPS - 1;

	return (uint64_t)(cell - shift * STEPS) << shift;
}

static void observe(struct histogram *h, uint64_t us)
{
	h->cells[cell_of(us)]++;
	h->number++;
	h->sum += us;
	if (us > h->max)
		h->max = us;
}

static uint64_t percentile(const struct histogram *h, double share)
{
	uint64_t rank = (uint64_t)(share * (double)h->number), seen = 0;

	for (int cell = 0; cell < CELLS; cell++)
		if ((seen += h->cells[cell]) > rank)
			return value_of(cell) < h->max ? value_of(cell) : h->max;
	return h->max;
}

/* ---- the workload ---- */

struct address {
	char text[16];
	int length;
};

static struct address *addresses;
static uint64_t workload_length;

static void read_workload(void)
{
	FILE *file = fopen(workload_file, "r");
	char line[64];
	uint64_t room = 0;

	if (!file)
		die(workload_file);
	while (fgets(line, sizeof line, file)) {
		size_t length = strcspn(line, "\n");

		if (length == 0 || length >= sizeof addresses->text) {
			fprintf(stderr, "load: %s: no IPv4 address: %s\n", workload_file, line);
			exit(1);
		}
		if (workload_length == room) {
			room = room ? 2 * room : 1024;
			addresses = realloc(addresses, room * sizeof *addresses);
			if (!addresses)
				die("memory");
		}
		struct address *entry = &addresses[workload_length++];
		memcpy(entry->text, line, length);
		entry->length = (int)length;
	}
	fclose(file);
	if (!workload_length) {
		fprintf(stderr, "load: %s is empty\n", workload_file);
		exit(1);
	}
	offset %= workload_length;
}

static struct address next_address(void)
{
	uint64_t number = offset++;
	struct address new;

	if (workload_length) {
		if (offset == workload_length)
			offset = 0;
		return addresses[number];
	}

	new.length = snprintf(new.text, sizeof new.text, "12.%u.%u.%u", (unsigned)(number >> 16 & 255),
			      (unsigned)(number >> 8 & 255), (unsigned)(number & 255));
	return new;
}

/* ---- requests: what Postfix 3.7 sends at end of data, in its order ---- */

static char head[256], middle[768], tail[768];
static int head_length, middle_length, tail_length;

static void prepare_request(void)
{
	head_length = snprintf(head, sizeof head,
			       "request=smtpd_access_policy\nprotocol_state=%s\nprotocol_name=ESMTP\nclient_address=",
			       state);
	middle_length = snprintf(
		middle, sizeof middle, "%s",
		"\nclient_name=mail-out.example.net\nclient_port=43210\nreverse_client_name=mail-out.example.net\n"
		"server_address=192.0.2.25\nserver_port=25\nhelo_name=mail-out.example.net\n"
		"sender=bounce+4711-user=example.org@news.example.net\nrecipient=user@example.org\nrecipient_count=1\n"
		"queue_id=");
	tail_length = snprintf(
		tail, sizeof tail, "%s",
		"\nsize=12345\netrn_domain=\nstress=\nsasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\n"
		"ccert_issuer=\nccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\n"
		"encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\npolicy_context=\n"
		"compatibility_level=3.6\nmail_version=3.7.11\n\n");
}

static char *put_hex(char *to, uint64_t number, int digits)
{
	for (int i = digits - 1; i >= 0; i--, number >>= 4)
		to[i] = "0123456789ABCDEF"[number & 15];
	return to + digits;
}

/* Writes a request with a queue id and an instance of its own; returns its length. */
static int make_request(char *to)
{
	static uint64_t serial;
	static const char instance[] = "\ninstance=";
	struct address client = next_address();
	char *start = to;

	serial++;
	to = mempcpy(to, head, head_length);
	to = mempcpy(to, client.text, client.length);
	to = mempcpy(to, middle, middle_length);
	to = put_hex(to, serial * 2654435761u, 10);
	to = mempcpy(to, instance, sizeof instance - 1);
	to = put_hex(to, (uint64_t)getpid(), 6);
	*to++ = '.';
	to = put_hex(to, serial, 10);
	*to++ = '.';
	*to++ = '0';
	to = mempcpy(to, tail, tail_length);
	return (int)(to - start);
}

/* ---- connections ---- */

enum phase { CLOSED, FREE, BUSY };

struct connection {
	int fd;
	enum phase phase;
	uint64_t due;   /* when its request was due, or when to connect again */
	int received;   /* bytes of the reply so far */
	char reply[MAX_REPLY];
};

static struct connection pool[MAX_CONNECTIONS];
static int free_list[MAX_CONNECTIONS], free_count;
static int poller;

struct totals {
	uint64_t dunno, deferred, lost;
	struct histogram latency;
};

static struct totals all, this_step;
static bool measuring;

static bool open_connection(struct connection *c)
{
	struct sockaddr_in inet = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_un local = { .sun_family = AF_UNIX };
	int on = 1, failed;

	c->fd = socket(socket_path ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
	if (c->fd < 0)
		die("socket");
	if (socket_path) {
		snprintf(local.sun_path, sizeof local.sun_path, "%s", socket_path);
		failed = connect(c->fd, (struct sockaddr *)&local, sizeof local);
	} else {
		if (inet_pton(AF_INET, host, &inet.sin_addr) != 1)
			die(host);
		setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
		failed = connect(c->fd, (struct sockaddr *)&inet, sizeof inet);
	}
	if (failed) {
		close(c->fd);
		c->phase = CLOSED;
		c->due = now_ns() + RETRY_NS;
		return false;
	}
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	struct epoll_event event = { .events = EPOLLIN, .data.ptr = c };
	if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event))
		die("epoll_ctl");
	c->phase = FREE;
	c->received = 0;
	return true;
}

static void lose(struct connection *c)
{
	if (c->phase == BUSY) {
		all.lost++;
		this_step.lost++;
	}
	close(c->fd);
	c->phase = CLOSED;
	c->due = now_ns();
}

static void send_request(struct connection *c, uint64_t due)
{
	char request[MAX_REQUEST];
	int length = make_request(request);

	c->due = due;
	c->phase = BUSY;
	/* A request is smaller than an empty socket buffer: it goes whole or the connection is broken. */
	if (send(c->fd, request, length, MSG_NOSIGNAL) != length)
		lose(c);
}

static void account(struct connection *c, uint64_t now)
{
	bool dunno = !strncasecmp(c->reply, "action=DUNNO", 12);
	uint64_t us = now > c->due ? (now - c->due) / 1000 : 0;

	if (strncmp(c->reply, "action=", 7)) {
		fprintf(stderr, "load: no policy reply: %.60s\n", c->reply);
		exit(1);
	}
	if (!measuring)
		return;
	all.dunno += dunno;
	all.deferred += !dunno;
	this_step.dunno += dunno;
	this_step.deferred += !dunno;
	observe(&all.latency, us);
	observe(&this_step.latency, us);
}

/* Reads what is there; true when it completes the reply. */
static bool read_reply(struct connection *c)
{
	ssize_t length = recv(c->fd, c->reply + c->received, sizeof c->reply - 1 - c->received, 0);

	if (length <= 0) {
		if (length == 0 || (errno != EAGAIN && errno != EINTR))
			lose(c);
		return false;
	}
	c->received += length;
	c->reply[c->received] = '\0';
	return c->received >= 2 && !memcmp(c->reply + c->received - 2, "\n\n", 2);
}

/* ---- the run ---- */

static double cpu_seconds(void)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static char *series; /* JSON, one object for each step */
static size_t series_length;
static FILE *series_file;

static void end_step(double at)
{
	struct histogram *h = &this_step.latency;

	fprintf(series_file, "%s{\"t\":%.1f,\"requests\":%lu,\"deferred\":%lu,\"lost\":%lu,\"p50_us\":%lu,\"p99_us\":%lu,\"max_us\":%lu}",
		ftell(series_file) ? "," : "", at, h->number, this_step.deferred, this_step.lost, percentile(h, 0.5),
		percentile(h, 0.99), h->max);
	memset(&this_step, 0, sizeof this_step);
}

static bool done(uint64_t now, uint64_t start)
{
	return measuring && (count ? all.latency.number >= count : now - start >= (uint64_t)(seconds * 1e9));
}

static void reconnect(uint64_t now)
{
	for (int i = 0; i < connections; i++)
		if (pool[i].phase == CLOSED && pool[i].due <= now && open_connection(&pool[i]))
			free_list[free_count++] = i;
}

/* Sends what is due on the connections that are free; returns when the next request is due. */
static uint64_t send_due(uint64_t now, uint64_t start, uint64_t *scheduled)
{
	while (free_count && rate == 0)
		send_request(&pool[free_list[--free_count]], now_ns());
	while (rate > 0) {
		uint64_t due = start + (uint64_t)((double)*scheduled * 1e9 / rate);

		if (due > now)
			return due;
		if (!free_count)
			break;
		++*scheduled;
		send_request(&pool[free_list[--free_count]], due);
	}
	return now + RETRY_NS;
}

static void handle(struct connection *c)
{
	if (!read_reply(c))
		return;
	account(c, now_ns());
	c->received = 0;
	if (rate > 0) {
		c->phase = FREE;
		free_list[free_count++] = (int)(c - pool);
	} else {
		send_request(c, now_ns());
	}
}

static void run(double *elapsed, double *cpu)
{
	uint64_t now = now_ns(), begin = now, start = now, last_step = now, scheduled = 0;
	struct epoll_event events[256];

	measuring = warm_up == 0;
	*cpu = cpu_seconds();
	while (!done(now, start)) {
		reconnect(now);
		uint64_t next = send_due(now, begin, &scheduled), wait = next > now ? next - now : 0;
		struct timespec timeout = { (time_t)(wait / 1000000000), (long)(wait % 1000000000) };
		int ready = epoll_pwait2(poller, events, 256, &timeout, NULL);

		if (ready < 0 && errno != EINTR)
			die("epoll_pwait2");
		for (int i = 0; i < ready; i++)
			handle(events[i].data.ptr);
		now = now_ns();
		if (!measuring && now - begin >= (uint64_t)(warm_up * 1e9)) {
			measuring = true;
			start = last_step = now;
			all.lost = 0;
			*cpu = cpu_seconds();
		}
		if (measuring && now - last_step >= (uint64_t)(step * 1e9)) {
			end_step((double)(now - start) / 1e9);
			last_step = now;
		}
	}
	*elapsed = (double)(now - start) / 1e9;
	*cpu = cpu_seconds() - *cpu;
}

static void print_result(double elapsed, double cpu)
{
	const struct histogram *h = &all.latency;

	fclose(series_file);
	printf("{\"requests\":%lu,\"seconds\":%.3f,\"per_second\":%.1f,\"dunno\":%lu,\"deferred\":%lu,\"lost\":%lu,"
	       "\"connections\":%d,\"rate\":%.1f,\"cpu_seconds\":%.3f,\"next\":%lu,",
	       h->number, elapsed, (double)h->number / elapsed, all.dunno, all.deferred, all.lost, connections, rate, cpu,
	       offset);
	printf("\"latency_us\":{\"mean\":%.1f,\"p50\":%lu,\"p90\":%lu,\"p99\":%lu,\"p999\":%lu,\"max\":%lu},\"series\":[%s]}\n",
	       h->number ? (double)h->sum / (double)h->number : 0.0, percentile(h, 0.5), percentile(h, 0.9),
	       percentile(h, 0.99), percentile(h, 0.999), h->max, series);
}

static const char usage[] =
	"usage: load [options]\n"
	"  --host ADDRESS --port N | --unix PATH   the policy server (127.0.0.1, 10045)\n"
	"  --connections N      persistent connections, one request in hand on each (100)\n"
	"  --warm-up SECONDS    not measured (0)\n"
	"  --seconds SECONDS    measured (10); or --count REQUESTS\n"
	"  --rate N             open loop: so many requests a second fall due (closed loop)\n"
	"  --workload FILE      client addresses, one a line, in this order, again from the top at the end\n"
	"  --offset N           the line of FILE to begin with; without --workload every client is new:\n"
	"                       12.0.0.0 plus N, and upward (0)\n"
	"  --state NAME         protocol_state (END-OF-MESSAGE)\n"
	"  --step SECONDS       what each entry of the series is about (1)\n";

static void parse_options(int argc, char **argv)
{
	static const struct option options[] = {
		{ "host", 1, NULL, 'h' },    { "port", 1, NULL, 'p' },	  { "unix", 1, NULL, 'u' },
		{ "connections", 1, NULL, 'c' }, { "warm-up", 1, NULL, 'w' },  { "seconds", 1, NULL, 's' },
		{ "count", 1, NULL, 'n' },   { "rate", 1, NULL, 'r' },	  { "workload", 1, NULL, 'f' },
		{ "offset", 1, NULL, 'o' },  { "state", 1, NULL, 'S' },	  { "step", 1, NULL, 't' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'h': host = optarg; break;
		case 'p': port = atoi(optarg); break;
		case 'u': socket_path = optarg; break;
		case 'c': connections = atoi(optarg); break;
		case 'w': warm_up = atof(optarg); break;
		case 's': seconds = atof(optarg); break;
		case 'n': count = strtoull(optarg, NULL, 10); break;
		case 'r': rate = atof(optarg); break;
		case 'f': workload_file = optarg; break;
		case 'o': offset = strtoull(optarg, NULL, 10); break;
		case 'S': state = optarg; break;
		case 't': step = atof(optarg); break;
		default: fputs(usage, stderr); exit(2);
		}
	}
	if (optind != argc || connections < 1 || connections > MAX_CONNECTIONS || strlen(state) > 32) {
		fputs(usage, stderr);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	double elapsed, cpu;

	parse_options(argc, argv);
	if (workload_file)
		read_workload();
	prepare_request();
	poller = epoll_create1(0);
	series_file = open_memstream(&series, &series_length);
	if (poller < 0 || !series_file)
		die("start");
	for (int i = 0; i < connections; i++) {
		if (!open_connection(&pool[i]))
			die(socket_path ? socket_path : host);
		free_list[free_count++] = i;
	}
	run(&elapsed, &cpu);
	print_result(elapsed, cpu);
	return 0;
}
