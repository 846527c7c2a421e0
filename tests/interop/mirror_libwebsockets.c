// A mirror on the C library libwebsockets, on which the stations of EVerest are built.
//
//     mirror client URL [OFFER]
//     mirror server [OFFER]
//
// mirror_ws.js says what a mirror does. OFFER is the value of the header Sec-WebSocket-Extensions of a client, and only
// turns compression on at a server.

#include <libwebsockets.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A message that waits until it can be sent.
struct message {
    struct message *next;
    size_t length;
    // The library writes the head of the frame in front of the text.
    unsigned char buffer[];
};

// The state of a connection, which the library allocates and fills with zeros.
struct mirror {
    struct message *first, *last;
    // The library compresses a part of the text at a time, and reads the rest after the call that sends it.
    struct message *in_progress;
    char *received;
    size_t received_length;
};

static bool is_client, has_ended;

static void queue(struct lws *connection, struct mirror *mirror, const char *text, size_t length) {
    struct message *message = malloc(sizeof *message + LWS_PRE + length);
    if (!message) abort();
    message->next = NULL;
    message->length = length;
    memcpy(message->buffer + LWS_PRE, text, length);
    if (mirror->first) {
        mirror->last->next = message;
    } else {
        mirror->first = message;
    }
    mirror->last = message;
    lws_callback_on_writable(connection);
}

static void report(struct lws *connection, struct mirror *mirror) {
    // Sets the default. It fails if the connection does not have the extension.
    bool compressed = lws_set_extension_option(connection, "permessage-deflate", "compression_level", "1") == 0;
    char text[100];
    int length = snprintf(text, sizeof text,
                          "[2,\"report\",\"DataTransfer\",{\"vendorId\":\"report\",\"data\":\"%s\"}]",
                          compressed ? "permessage-deflate" : "");
    queue(connection, mirror, text, length);
}

static void receive(struct lws *connection, struct mirror *mirror, const char *part, size_t length) {
    static const char RESPONSE[] = "[3,\"report\"";
    mirror->received = realloc(mirror->received, mirror->received_length + length + 1);
    if (!mirror->received) abort();
    memcpy(mirror->received + mirror->received_length, part, length);
    mirror->received_length += length;
    if (!lws_is_final_fragment(connection) || lws_remaining_packet_payload(connection)) return;

    mirror->received[mirror->received_length] = '\0';
    if (strncmp(mirror->received, RESPONSE, strlen(RESPONSE)) != 0) {
        queue(connection, mirror, mirror->received, mirror->received_length);
    }
    mirror->received_length = 0;
}

// Sends the first message. The library can send when it has taken all of the previous message.
static int send_first(struct lws *connection, struct mirror *mirror) {
    free(mirror->in_progress);
    struct message *message = mirror->in_progress = mirror->first;
    if (!message) return 0;
    mirror->first = message->next;
    int sent = lws_write(connection, message->buffer + LWS_PRE, message->length, LWS_WRITE_TEXT);
    lws_callback_on_writable(connection);
    return sent < 0 ? -1 : 0;
}

static int on_event(struct lws *connection, enum lws_callback_reasons reason, void *user, void *data, size_t length) {
    struct mirror *mirror = user;
    switch (reason) {
    case LWS_CALLBACK_ESTABLISHED:
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        report(connection, mirror);
        return 0;
    case LWS_CALLBACK_RECEIVE:
    case LWS_CALLBACK_CLIENT_RECEIVE:
        receive(connection, mirror, data, length);
        return 0;
    case LWS_CALLBACK_SERVER_WRITEABLE:
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        return send_first(connection, mirror);
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        fprintf(stderr, "cannot connect: %s\n", data ? (char *)data : "no reason");
        exit(1);
    case LWS_CALLBACK_CLIENT_CLOSED:
        has_ended = true;
        return 0;
    default:
        return lws_callback_http_dummy(connection, reason, user, data, length);
    }
}

static void connect_to(struct lws_context *context, char *url) {
    const char *scheme, *host, *path;
    char with_slash[200];
    int port;
    if (lws_parse_uri(url, &scheme, &host, &port, &path)) exit(2);
    snprintf(with_slash, sizeof with_slash, "/%s", path);
    struct lws_client_connect_info info = {
        .context = context,
        .address = host,
        .port = port,
        .path = with_slash,
        .host = host,
        .protocol = "ocpp1.6",
    };
    if (!lws_client_connect_via_info(&info)) exit(1);
}

int main(int count, char **arguments) {
    if (count < 2) return 2;
    is_client = strcmp(arguments[1], "client") == 0;
    const char *offer = count > (is_client ? 3 : 2) ? arguments[is_client ? 3 : 2] : NULL;
    const struct lws_protocols protocols[] = {
        {.name = "ocpp1.6", .callback = on_event, .per_session_data_size = sizeof(struct mirror)},
        {0},
    };
    const struct lws_extension extensions[] = {
        {"permessage-deflate", lws_extension_callback_pm_deflate, offer},
        {0},
    };

    lws_set_log_level(LLL_ERR | LLL_WARN, NULL);
    struct lws_context *context = lws_create_context(&(struct lws_context_creation_info){
        .port = is_client ? CONTEXT_PORT_NO_LISTEN : 0,
        .iface = is_client ? NULL : "127.0.0.1",
        .protocols = protocols,
        .extensions = offer ? extensions : NULL,
    });
    if (!context) return 1;
    if (is_client) {
        connect_to(context, arguments[2]);
    } else {
        int port = lws_get_vhost_listen_port(lws_get_vhost_by_name(context, "default"));
        printf("{\"event\": \"listening\", \"port\": %d}\n", port);
        fflush(stdout);
    }
    while (!has_ended && lws_service(context, 0) >= 0) {}
    lws_context_destroy(context);
    return 0;
}
