//! Actions as types: a request that knows its name and what answers it.

#[cfg(feature = "ocpp-kit")]
mod kit;
#[cfg(feature = "ocpp-kit")]
pub(crate) mod table;

use serde::{Serialize, de::DeserializeOwned};

#[doc = include_str!("docs/types.md")]
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the request of an action that is answered",
    note = "`ocpp_rpc::action!` binds a request to its action and its response",
    note = "the request of a SEND has no answer: it is sent with `send_action` and handled with `on_send_action`"
)]
pub trait Action {
    /// The action's name on the wire.
    const NAME: &'static str;
    /// What is sent.
    type Request: Serialize + DeserializeOwned + Send + 'static;
    /// What is answered.
    type Response: Serialize + DeserializeOwned + Send + 'static;

    /// What is sent.
    fn params(&self) -> &Self::Request;
}

/// A request that is sent to many need not be cloned.
#[diagnostic::do_not_recommend]
impl<A: Action> Action for &A {
    const NAME: &'static str = A::NAME;
    type Request = A::Request;
    type Response = A::Response;

    fn params(&self) -> &A::Request {
        A::params(self)
    }
}

/// A message that is never answered, as a type: an action of OCPP 2.1's SEND. Else it is as an [`Action`].
///
/// ```
/// use std::convert::Infallible;
/// use ocpp_rpc::{RpcRouter, extract::Params};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Stream {
///     id: u32,
/// }
///
/// ocpp_rpc::send_action!("NotifyPeriodicEventStream": Stream);
///
/// async fn stream(Params(stream): Params<Stream>) -> Result<(), Infallible> {
///     println!("of stream {}", stream.id);
///     Ok(())
/// }
///
/// let router = RpcRouter::new().on_send_action::<Stream, _>(stream);
/// # async fn example(peer: ocpp_rpc::Session) -> Result<(), ocpp_rpc::Error> {
/// peer.send_action(Stream { id: 1 }).await
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message that is never answered",
    note = "`ocpp_rpc::send_action!` binds one to its action",
    note = "the request of an action that is answered goes out with `request` and is handled with `on_action`"
)]
pub trait SendAction {
    /// The action's name on the wire.
    const NAME: &'static str;
    /// What is sent.
    type Request: Serialize + DeserializeOwned + Send + 'static;

    /// What is sent.
    fn params(&self) -> &Self::Request;
}

#[diagnostic::do_not_recommend]
impl<A: SendAction> SendAction for &A {
    const NAME: &'static str = A::NAME;
    type Request = A::Request;

    fn params(&self) -> &A::Request {
        A::params(self)
    }
}

/// Binds a request to its action and its response: see [`Action`].
///
/// With a name of its own, it makes a type around the request, which may be anybody's; without one, the request itself
/// becomes the action and must be a type of yours.
///
/// ```
/// # mod payloads {
/// #     #[derive(serde::Serialize, serde::Deserialize)]
/// #     pub struct ResetRequest;
/// #     #[derive(serde::Serialize, serde::Deserialize)]
/// #     pub struct ResetResponse;
/// # }
/// # use payloads::{ResetRequest, ResetResponse};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Locate;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Located;
/// // pub struct Reset(pub ResetRequest);
/// ocpp_rpc::action!(pub Reset("Reset"): ResetRequest => ResetResponse);
/// // Locate is a type of this crate.
/// ocpp_rpc::action!("Locate": Locate => Located);
/// ```
#[macro_export]
macro_rules! action {
    ($name:literal: $request:ty => $response:ty $(;)?) => {
        impl $crate::Action for $request {
            const NAME: &'static str = $name;
            type Request = Self;
            type Response = $response;

            fn params(&self) -> &Self {
                self
            }
        }
    };
    ($(#[$attribute:meta])* $visible:vis $marker:ident($name:literal): $request:ty => $response:ty $(;)?) => {
        $(#[$attribute])*
        $visible struct $marker($visible $request);

        impl $crate::Action for $marker {
            const NAME: &'static str = $name;
            type Request = $request;
            type Response = $response;

            fn params(&self) -> &$request {
                &self.0
            }
        }
    };
}

/// Binds a message that is never answered to its action: see [`SendAction`], and [`action!`] for the two ways.
#[macro_export]
macro_rules! send_action {
    ($name:literal: $request:ty $(;)?) => {
        impl $crate::SendAction for $request {
            const NAME: &'static str = $name;
            type Request = Self;

            fn params(&self) -> &Self {
                self
            }
        }
    };
    ($(#[$attribute:meta])* $visible:vis $marker:ident($name:literal): $request:ty $(;)?) => {
        $(#[$attribute])*
        $visible struct $marker($visible $request);

        impl $crate::SendAction for $marker {
            const NAME: &'static str = $name;
            type Request = $request;

            fn params(&self) -> &$request {
                &self.0
            }
        }
    };
}
