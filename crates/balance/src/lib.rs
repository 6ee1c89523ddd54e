//! Balancing: which endpoint takes the next call.
//!
//! Owns the choice ([`Balancer`]: policies, locality, tag filters), the judgement of endpoints by what their calls came
//! to (peak EWMA, outlier ejection) and what a retry may cost ([`RetryBudget`], [`RetryPolicy`]). Pure: `now` and the
//! seed are arguments, no timer is needed, the same inputs give the same picks.
//!
//! Never does: it opens no connection, sends nothing, checks no health by itself and does not know what a call is.
//! Whoever asks for a [`Pick`] makes the call and says how it ended. Breakers, hedging and slow start are not here.
//!
//! Start reading at [`Balancer`] (the contract of calls and of threads), then [`policy::Policy`], then [`locality`] and
//! [`outlier`]; [`retry`] stands alone.

mod balancer;
pub mod endpoint;
pub mod locality;
pub mod outlier;
pub mod policy;
mod random;
pub mod retry;
mod slots;
mod view;

pub use balancer::{
    Balancer, Changes, EndpointStatus, Event, MAX_ENDPOINTS, MAX_EVENTS, MAX_FILTERS, NoEndpoint,
    Outcome, Pick, PickRequest, Settings,
};
pub use endpoint::{Endpoint, TagFilter, Tags, stable_hash};
pub use locality::{Locality, Place};
pub use outlier::{EjectionReason, OutlierSettings};
pub use policy::{ConsistentHash, PeakEwma, Policy};
pub use retry::{
    Attempt, Exposure, GiveUp, Idempotency, RetryBudget, RetryBudgetSettings, RetryDecision,
    RetryPolicy,
};
