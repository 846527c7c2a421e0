//! Actions as types, which bind a request to its name and its response.

#[cfg(feature = "ocpp-kit")]
mod kit;
#[cfg(feature = "ocpp-kit")]
pub(crate) mod table;

use serde::{Serialize, de::DeserializeOwned};

/// An action as a type, which binds a request to its name and to the type of its response.
///
/// Calls and handlers that use it cannot mix up names and types. The macro [`action!`](crate::action!) implements it for
/// a request type. [`Session::request`](crate::Session::request) sends a request, and
/// [`RpcRouter::on_action`](crate::RpcRouter::on_action) adds its handler. A reference to a request is a request as
/// well. The guide's page [types](crate::guide::types) has more, such as the types of OCPP.
///
/// ```
/// use ocpp_rpc::Action;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Reset {
///     r#type: String,
/// }
///
/// #[derive(Serialize, Deserialize)]
/// struct ResetResponse {
///     status: String,
/// }
///
/// ocpp_rpc::action!("Reset": Reset => ResetResponse);
///
/// assert_eq!(Reset::NAME, "Reset");
///
/// async fn reset(station: &ocpp_rpc::Session) -> Result<ResetResponse, ocpp_rpc::Error> {
///     station.request(Reset { r#type: "Soft".to_owned() }).await
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the request of an action with a response",
    note = "`ocpp_rpc::action!` binds a request to its action and its response",
    note = "the request of a SEND has no response: send it with `send_action` and handle it with `on_send_action`"
)]
pub trait Action {
    /// The action's name in messages.
    const NAME: &'static str;
    /// The parameters of the call.
    type Request: Serialize + DeserializeOwned + Send + 'static;
    /// The result of the call.
    type Response: Serialize + DeserializeOwned + Send + 'static;

    /// Returns the parameters.
    fn params(&self) -> &Self::Request;
}

/// Lets an application send one request to many stations without cloning it.
#[diagnostic::do_not_recommend]
impl<A: Action> Action for &A {
    const NAME: &'static str = A::NAME;
    type Request = A::Request;
    type Response = A::Response;

    fn params(&self) -> &A::Request {
        A::params(self)
    }
}

/// A SEND as a type (OCPP 2.1), which never gets a response. Otherwise it works as an [`Action`].
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
    message = "`{Self}` is not the request of a SEND",
    note = "`ocpp_rpc::send_action!` binds a request to its action",
    note = "the request of an action with a response is sent with `request` and handled with `on_action`"
)]
pub trait SendAction {
    /// The action's name in messages.
    const NAME: &'static str;
    /// The parameters of the message.
    type Request: Serialize + DeserializeOwned + Send + 'static;

    /// Returns the parameters.
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

/// Implements [`Action`], which binds a request to its name and its response.
///
/// With a name, the macro creates a type around the request, which may come from another crate. Without a name, the
/// request itself implements [`Action`] and must be a type of your crate.
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

/// Implements [`SendAction`], which binds the request of a SEND to its name. See [`action!`] for the two forms.
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
