//! Calls to stations that are connected to another node.
//!
//! Several servers behind a load balancer are a cluster if each is built with
//! [`RpcServerBuilder::cluster`](crate::server::RpcServerBuilder::cluster). A [`Station`](crate::Station) can then be
//! called from every node.
//!
//! A [`Cluster`] carries messages between the nodes. The crate `ocpp-rpc-nats` does so over NATS, and [`Local`] within one
//! process, for tests.

pub(crate) mod directory;
pub(crate) mod epoch;
pub(crate) mod filter;
pub(crate) mod home;
pub(crate) mod listing;
pub(crate) mod local;
pub(crate) mod member;
pub(crate) mod members;
pub(crate) mod metrics;
pub(crate) mod moves;
pub(crate) mod node;
pub(crate) mod observer;
pub(crate) mod outbox;
pub(crate) mod recent;
pub(crate) mod requests;
pub(crate) mod serving;
pub(crate) mod transport;
pub(crate) mod watching;
pub(crate) mod wire;

pub use self::{
    epoch::{InvalidNodeId, NodeId},
    filter::EventFilter,
    local::{Local, LocalNode},
    member::{lists::Stations, watching::ClusterEvents},
    node::{Node, Received},
    observer::Observer,
    transport::{Cluster, ClusterFuture, Destination, JoinError, SendError, Topic},
    watching::NodeEvent,
};
