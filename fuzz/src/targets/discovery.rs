//! The JSON between discovery servers and their clients.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use warren_discovery::wire::{
    BootstrapAnswer, ErrorAnswer, GrantsAnswer, LeaveAnswer, PeersAnswer, RegisterAnswer,
    RegisterRequest,
};
use warren_identity::join::{JoinGrant, JoinRequest, JoinResponse, RenewRequest};

/// A body as a server reads it, of any request.
pub fn requests(data: &[u8]) -> bool {
    let register = reads_back::<RegisterRequest>(data);
    if let Some(request) = &register
        && request.public_key.check(request.peer_id).is_ok()
    {
        let public = warren_identity::public_key_of_peer_id(&request.peer_id);
        assert!(
            public.is_some(),
            "a key was accepted for a peer id that holds none"
        );
    }
    register.is_some()
        | reads_back::<JoinGrant>(data).is_some()
        // Secrets and requests compare with nothing: only that reading them ends.
        | serde_json::from_slice::<JoinRequest>(data).is_ok()
        | serde_json::from_slice::<RenewRequest>(data).is_ok()
}

/// A body as a client reads it, of any answer.
pub fn answers(data: &[u8]) -> bool {
    reads_back::<BootstrapAnswer>(data).is_some()
        | reads_back::<PeersAnswer>(data).is_some()
        | reads_back::<RegisterAnswer>(data).is_some()
        | reads_back::<LeaveAnswer>(data).is_some()
        | reads_back::<JoinResponse>(data).is_some()
        | reads_back::<GrantsAnswer>(data).is_some()
        | reads_back::<ErrorAnswer>(data).is_some()
}

/// What is read, after it was written and read again without a difference.
fn reads_back<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(data).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, value);
    Some(value)
}
