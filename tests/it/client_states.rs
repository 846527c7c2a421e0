//! The table of states in the documentation of `RpcClient`, cell by cell.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use ocpp_rpc::{
    Close, Error, RpcClient,
    client::{ClientState, ConnectError},
    close::{CloseCause, CloseInfo},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::Semaphore,
    task::JoinHandle,
    time::Instant,
};

use crate::{
    csms::{Csms, Dials, accept, becomes, client, connecting},
    support::gated,
};

/// A row of the table, or a part of a row that the table distinguishes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Row {
    Closed,
    /// CONNECTING for the first time.
    Dialling,
    /// CONNECTING after a connection was lost.
    Reconnecting,
    Open,
    /// CLOSING, while the client waits for pending calls.
    Draining,
    /// CLOSING, after the close frame was sent.
    CloseSent,
}

#[derive(Debug, Clone, Copy)]
enum Column {
    Call,
    ServerCall,
    HandlerResponse,
    Connect,
    Close,
}

use Row::{CloseSent, Dialling, Draining, Open, Reconnecting};

/// A client in a state. If it was ever connected, a handler runs for the call `"1"` of the server.
struct Scene {
    client: RpcClient,
    dials: Dials,
    /// The current connection, and a dial without a response so far.
    csms: Option<Csms>,
    dialled: Option<DuplexStream>,
    /// Ends the handler with a permit.
    gate: Arc<Semaphore>,
    /// The first connect, and the first close.
    attempt: Option<JoinHandle<Result<(), ConnectError>>>,
    closing: Option<JoinHandle<CloseInfo>>,
}

impl Scene {
    async fn reach(row: Row) -> Self {
        let (router, gate) = gated();
        let (builder, mut dials) = client();
        let (client, attempt) = connecting(builder.router(router));
        let stream = dials.next().await;
        let mut scene = Self { client, dials, csms: None, dialled: None, gate, attempt: Some(attempt), closing: None };
        if row == Dialling {
            scene.dialled = Some(stream);
            scene.assert_state(ClientState::Connecting);
            return scene;
        }
        let mut csms = Csms(accept(stream, "ocpp1.6").await);
        scene.attempt.take().expect("an attempt").await.expect("no panic").expect("connected");
        csms.send(json!([2, "1", "Wait", {}])).await;
        csms.send(json!([2, "2", "Echo", {}])).await;
        assert_eq!(csms.receive().await, json!([3, "2", {}]));
        match row {
            Dialling | Open => scene.csms = Some(csms),
            Reconnecting => {
                drop(csms);
                becomes(&scene.client, ClientState::Connecting).await;
            }
            Draining => {
                scene.close(Close::new(3000).drain(Duration::from_secs(30))).await;
                scene.csms = Some(csms);
            }
            CloseSent => {
                scene.close(Close::new(3000)).await;
                // The server does not read the close frame yet.
                scene.csms = Some(csms);
            }
            Row::Closed => {
                scene.close(Close::new(3000)).await;
                assert_eq!(csms.closed().await.0, 3000);
                drop(csms);
                becomes(&scene.client, ClientState::Closed).await;
            }
        }
        scene.assert_state(match row {
            Row::Closed => ClientState::Closed,
            Dialling | Reconnecting => ClientState::Connecting,
            Open => ClientState::Open,
            Draining | CloseSent => ClientState::Closing,
        });
        scene
    }

    /// Returns the current connection, or the next one if none is open.
    async fn connection(&mut self) -> Csms {
        match (self.csms.take(), self.dialled.take()) {
            (Some(csms), _) => csms,
            (None, Some(stream)) => Csms(accept(stream, "ocpp1.6").await),
            (None, None) => self.dials.accept("ocpp1.6").await,
        }
    }

    fn spawn_connect(&self) -> JoinHandle<Result<(), ConnectError>> {
        let client = self.client.clone();
        tokio::spawn(async move { client.connect().await })
    }

    fn assert_state(&self, state: ClientState) {
        assert_eq!(self.client.state(), state);
    }

    /// Starts a close and waits until the client is closing.
    async fn close(&mut self, close: Close) {
        let client = self.client.clone();
        self.closing = Some(tokio::spawn(async move { client.close(close).await }));
        becomes(&self.client, ClientState::Closing).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b52_client_in_every_state_behaves_as_the_table_says() {
    for row in [Row::Closed, Dialling, Reconnecting, Open, Draining, CloseSent] {
        for column in [Column::Call, Column::ServerCall, Column::HandlerResponse, Column::Connect, Column::Close] {
            let scene = Scene::reach(row).await;
            // The output appears only if the test fails.
            println!("{row:?}, {column:?}");
            match column {
                Column::Call => call(row, scene).await,
                Column::ServerCall => server_call(row, scene).await,
                Column::HandlerResponse => handler_response(row, scene).await,
                Column::Connect => connect(row, scene).await,
                Column::Close => close(row, scene).await,
            }
        }
    }
}

async fn call(row: Row, mut scene: Scene) {
    let mut call = Box::pin(scene.client.call::<Value>("Any", &()));
    let at_once = call.as_mut().now_or_never();
    match row {
        Row::Closed => assert!(matches!(at_once, Some(Err(Error::Closed))), "{at_once:?}"),
        Draining | CloseSent => assert!(matches!(at_once, Some(Err(Error::Closing))), "{at_once:?}"),
        Dialling | Reconnecting | Open => {
            assert!(at_once.is_none(), "{at_once:?}");
            let mut csms = scene.connection().await;
            let (response, ()) = tokio::join!(call, csms.answer("Any"));
            assert_eq!(response.expect("a response"), json!({"to": "Any"}));
        }
    }
}

async fn server_call(row: Row, mut scene: Scene) {
    let call = json!([2, "3", "Echo", {"n": 1}]);
    match row {
        Row::Closed | Dialling | Reconnecting => assert!(scene.csms.is_none(), "there is no connection"),
        Open | Draining => {
            let csms = scene.csms.as_mut().expect("a connection");
            csms.send(call).await;
            assert_eq!(csms.receive().await, json!([3, "3", {"n": 1}]));
        }
        CloseSent => {
            let mut stream = scene.csms.take().expect("a connection").0.into_inner();
            stream.write_all(&frame(&call.to_string())).await.expect("open");
            assert_eq!(opcodes(stream).await, [CLOSE], "no response");
        }
    }
}

async fn handler_response(row: Row, mut scene: Scene) {
    scene.gate.add_permits(1);
    let response = json!([3, "1", {}]);
    match row {
        Row::Closed => {
            // The response is dropped: it is not sent on a later connection either.
            let attempt = scene.spawn_connect();
            let mut csms = scene.dials.accept("ocpp1.6").await;
            attempt.await.expect("no panic").expect("connected");
            csms.silent().await;
        }
        // The client was never connected, so there is no handler.
        Dialling => {}
        Reconnecting | Open => {
            let mut csms = scene.connection().await;
            assert_eq!(csms.receive().await, response);
        }
        Draining => {
            let mut csms = scene.csms.take().expect("a connection");
            assert_eq!(csms.receive().await, response);
            assert_eq!(csms.closed().await.0, 3000, "the close waited only for this response");
        }
        CloseSent => {
            let stream = scene.csms.take().expect("a connection").0.into_inner();
            assert_eq!(opcodes(stream).await, [CLOSE], "no response");
        }
    }
}

async fn connect(row: Row, mut scene: Scene) {
    let attempt = scene.spawn_connect();
    tokio::task::yield_now().await;
    match row {
        Row::Closed => {
            let _csms = scene.dials.accept("ocpp1.6").await;
            attempt.await.expect("no panic").expect("connected");
            scene.assert_state(ClientState::Open);
        }
        Dialling | Reconnecting => {
            assert!(!attempt.is_finished(), "connect joins the attempt");
            let _csms = scene.connection().await;
            attempt.await.expect("no panic").expect("connected");
            assert!(scene.dials.none(), "there was one attempt");
        }
        Open => {
            assert!(attempt.is_finished(), "connect returns at once");
            attempt.await.expect("no panic").expect("connected");
            assert!(scene.dials.none());
        }
        Draining | CloseSent => {
            assert!(attempt.is_finished(), "connect fails at once");
            assert!(matches!(attempt.await.expect("no panic"), Err(ConnectError::Closing)));
            scene.assert_state(ClientState::Closing);
        }
    }
}

async fn close(row: Row, mut scene: Scene) {
    let start = Instant::now();
    let close = Close::new(4000).reason("enough");
    match row {
        Row::Closed => {
            let closed = scene.client.close(close).await;
            assert_eq!((closed.code, start.elapsed()), (3000, Duration::ZERO), "the client was already closed");
        }
        Dialling | Reconnecting => {
            let closed = scene.client.close(close).await;
            let expected = if row == Dialling { (1001, "connection aborted") } else { (4000, "enough") };
            assert_eq!((closed.code, &*closed.reason, closed.cause), (expected.0, expected.1, CloseCause::Local));
            assert!(start.elapsed().is_zero());
            scene.assert_state(ClientState::Closed);
            assert!(scene.dials.none());
        }
        Open => {
            let mut csms = scene.csms.take().expect("a connection");
            let (closed, seen) = tokio::join!(scene.client.close(close), async {
                let seen = csms.closed().await;
                drop(csms);
                seen
            });
            assert_eq!(seen, (4000, "enough".to_owned()));
            assert_eq!(
                (closed.code, closed.cause, scene.client.state()),
                (4000, CloseCause::Local, ClientState::Closed)
            );
        }
        Draining | CloseSent => {
            scene.gate.add_permits(1);
            let closed = scene.client.close(close).await;
            let first = scene.closing.take().expect("a close").await.expect("no panic");
            assert_eq!((closed.code, &closed), (3000, &first));
        }
    }
}

const CLOSE: u8 = 0x88;

/// Returns a text frame as a server sends it.
fn frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short text");
    [&[0x81, length], text.as_bytes()].concat()
}

/// Returns the opcodes of the short, masked frames of a client until it closes the stream.
async fn opcodes(mut stream: DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("the end of the stream");
    let mut left = &bytes[..];
    let mut opcodes = Vec::new();
    while let [opcode, length, rest @ ..] = left {
        opcodes.push(*opcode);
        left = &rest[4 + usize::from(length & 0x7f)..];
    }
    opcodes
}
