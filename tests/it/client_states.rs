//! The client's table of states, cell by cell, as the documentation of `RpcClient` has it.

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

/// A row of the table, or the part of one where the table makes a difference.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Row {
    Closed,
    /// CONNECTING for the first time.
    Dialling,
    /// CONNECTING after a connection was lost.
    Reconnecting,
    Open,
    /// CLOSING, and calls under way are waited for.
    Waiting,
    /// CLOSING, and the close frame has gone out.
    Parting,
}

#[derive(Debug, Clone, Copy)]
enum Column {
    Call,
    CallOfTheServer,
    AnswerOfAHandler,
    Connect,
    Close,
}

use Row::{Dialling, Open, Parting, Reconnecting, Waiting};

/// A client in a state, with a handler at work where it has ever been connected, on the server's call `"1"`.
struct Scene {
    client: RpcClient,
    dials: Dials,
    /// The connection there is, and a dial that is not answered yet.
    csms: Option<Csms>,
    dialled: Option<DuplexStream>,
    /// Lets the handler end.
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
            scene.is_in(ClientState::Connecting);
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
            Waiting => {
                scene.close(Close::new(3000).drain(Duration::from_secs(30))).await;
                scene.csms = Some(csms);
            }
            Parting => {
                scene.close(Close::new(3000)).await;
                // The server is slow to notice.
                scene.csms = Some(csms);
            }
            Row::Closed => {
                scene.close(Close::new(3000)).await;
                assert_eq!(csms.closed().await.0, 3000);
                drop(csms);
                becomes(&scene.client, ClientState::Closed).await;
            }
        }
        scene.is_in(match row {
            Row::Closed => ClientState::Closed,
            Dialling | Reconnecting => ClientState::Connecting,
            Open => ClientState::Open,
            Waiting | Parting => ClientState::Closing,
        });
        scene
    }

    /// The connection there is, or the next one.
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

    fn is_in(&self, state: ClientState) {
        assert_eq!(self.client.state(), state);
    }

    /// Begins to close.
    async fn close(&mut self, close: Close) {
        let client = self.client.clone();
        self.closing = Some(tokio::spawn(async move { client.close(close).await }));
        becomes(&self.client, ClientState::Closing).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b52_every_state_does_with_every_call_answer_connect_and_close_as_the_table_says() {
    for row in [Row::Closed, Dialling, Reconnecting, Open, Waiting, Parting] {
        for column in [Column::Call, Column::CallOfTheServer, Column::AnswerOfAHandler, Column::Connect, Column::Close]
        {
            let scene = Scene::reach(row).await;
            // Shown where one fails.
            println!("{row:?}, {column:?}");
            match column {
                Column::Call => call(row, scene).await,
                Column::CallOfTheServer => call_of_the_server(row, scene).await,
                Column::AnswerOfAHandler => answer_of_a_handler(row, scene).await,
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
        Waiting | Parting => assert!(matches!(at_once, Some(Err(Error::Closing))), "{at_once:?}"),
        Dialling | Reconnecting | Open => {
            assert!(at_once.is_none(), "{at_once:?}");
            let mut csms = scene.connection().await;
            let (answer, ()) = tokio::join!(call, csms.answer("Any"));
            assert_eq!(answer.expect("an answer"), json!({"to": "Any"}));
        }
    }
}

async fn call_of_the_server(row: Row, mut scene: Scene) {
    let call = json!([2, "3", "Echo", {"n": 1}]);
    match row {
        Row::Closed | Dialling | Reconnecting => assert!(scene.csms.is_none(), "there is nobody to call"),
        Open | Waiting => {
            let csms = scene.csms.as_mut().expect("a connection");
            csms.send(call).await;
            assert_eq!(csms.receive().await, json!([3, "3", {"n": 1}]));
        }
        Parting => {
            let mut stream = scene.csms.take().expect("a connection").0.into_inner();
            stream.write_all(&frame(&call.to_string())).await.expect("open");
            assert_eq!(opcodes(stream).await, [CLOSE], "no answer");
        }
    }
}

async fn answer_of_a_handler(row: Row, mut scene: Scene) {
    scene.gate.add_permits(1);
    let answer = json!([3, "1", {}]);
    match row {
        Row::Closed => {
            // Dropped: it does not go out on a connection to come either.
            let attempt = scene.spawn_connect();
            let mut csms = scene.dials.accept("ocpp1.6").await;
            attempt.await.expect("no panic").expect("connected");
            csms.silent().await;
        }
        // It was never connected, so nobody has called it.
        Dialling => {}
        Reconnecting | Open => {
            let mut csms = scene.connection().await;
            assert_eq!(csms.receive().await, answer);
        }
        Waiting => {
            let mut csms = scene.csms.take().expect("a connection");
            assert_eq!(csms.receive().await, answer);
            assert_eq!(csms.closed().await.0, 3000, "that was all it waited for");
        }
        Parting => {
            let stream = scene.csms.take().expect("a connection").0.into_inner();
            assert_eq!(opcodes(stream).await, [CLOSE], "no answer");
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
            scene.is_in(ClientState::Open);
        }
        Dialling | Reconnecting => {
            assert!(!attempt.is_finished(), "it joins");
            let _csms = scene.connection().await;
            attempt.await.expect("no panic").expect("connected");
            assert!(scene.dials.none(), "there was one attempt");
        }
        Open => {
            assert!(attempt.is_finished(), "there is nothing to do");
            attempt.await.expect("no panic").expect("connected");
            assert!(scene.dials.none());
        }
        Waiting | Parting => {
            assert!(attempt.is_finished(), "at once");
            assert!(matches!(attempt.await.expect("no panic"), Err(ConnectError::Closing)));
            scene.is_in(ClientState::Closing);
        }
    }
}

async fn close(row: Row, mut scene: Scene) {
    let start = Instant::now();
    let close = Close::new(4000).reason("enough");
    match row {
        Row::Closed => {
            let closed = scene.client.close(close).await;
            assert_eq!((closed.code, start.elapsed()), (3000, Duration::ZERO), "it was closed already");
        }
        Dialling | Reconnecting => {
            let closed = scene.client.close(close).await;
            let expected = if row == Dialling { (1001, "connection aborted") } else { (4000, "enough") };
            assert_eq!((closed.code, &*closed.reason, closed.cause), (expected.0, expected.1, CloseCause::Local));
            assert!(start.elapsed().is_zero());
            scene.is_in(ClientState::Closed);
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
        Waiting | Parting => {
            scene.gate.add_permits(1);
            let closed = scene.client.close(close).await;
            let first = scene.closing.take().expect("a close").await.expect("no panic");
            assert_eq!((closed.code, &closed), (3000, &first));
        }
    }
}

const CLOSE: u8 = 0x88;

/// A text frame as a server sends it.
fn frame(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short text");
    [&[0x81, length], text.as_bytes()].concat()
}

/// What kinds of frames came from a client until it closed the stream; short ones, and masked.
async fn opcodes(mut stream: DuplexStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("an end");
    let mut left = &bytes[..];
    let mut opcodes = Vec::new();
    while let [opcode, length, rest @ ..] = left {
        opcodes.push(*opcode);
        left = &rest[4 + usize::from(length & 0x7f)..];
    }
    opcodes
}
