//! Where a director sends a call.
//!
//! A call goes through one director, or through two where it crosses regions, never more: a director says in the
//! metadata what it passed the call on as, and the next one keeps to it.
//!
//! * From a caller, without `data-region`: to the workers, near ones first; when those cannot take it, to a director of
//!   another region.
//! * From a caller, with `data-region` of here: to the workers of this region, or to nobody.
//! * From a caller, with another `data-region`: to a director of that region, or to nobody.
//! * From a director of another region: to the workers, or to nobody.
//! * From a director of here: to nobody. It took us for a worker, which we are not for this method.

/// Metadata: the region that the data of a call may not leave.
pub const DATA_REGION: &str = "data-region";
/// Metadata: what a director passed a call on as; believed of directors only.
pub const VIA: &str = "warren-via";
/// [`VIA`] of a call that a director passed to a worker.
pub const VIA_DIRECTOR: &str = "director";
/// [`VIA`] of a call that a director passed to a director of another region.
pub const VIA_REGION: &str = "region";

/// How a call came to the director.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Somebody calls.
    FromCaller,
    /// A director of another region passed it on.
    FromRegion,
    /// A director took this node for a worker.
    FromDirector,
}

impl Arrival {
    /// What the metadata says, of a peer that may say so: `via` is of a director.
    #[must_use]
    pub fn of(via: Option<&str>) -> Self {
        match via {
            Some(VIA_REGION) => Self::FromRegion,
            Some(VIA_DIRECTOR) => Self::FromDirector,
            _ => Self::FromCaller,
        }
    }
}

/// Where the call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination<'a> {
    /// Workers, near ones first, and directors of other regions when those cannot.
    Anywhere,
    /// Workers, wherever in this cluster they are.
    Workers,
    /// Workers of this region.
    WorkersOf(&'a str),
    /// Whoever serves that region.
    Region(&'a str),
}

/// Why a call goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// Two regions contradict each other.
    #[error(
        "the data of this call must stay in region `{wanted}`, and a director of region `{here}` was asked; check `cluster.remote_directors` of the director that passed it on"
    )]
    WrongRegion {
        /// What the call says.
        wanted: String,
        /// Where it came.
        here: String,
    },
    /// A director passes on what was passed to it as to a worker.
    #[error(
        "no worker here has this method: it came to a director that is passed calls as a worker"
    )]
    PassedOnAlready,
}

/// Decides for a call that came to a director in region `here`.
///
/// # Errors
/// [`NoRoute`]; nothing was done.
pub fn destination<'a>(
    here: Option<&'a str>,
    arrival: Arrival,
    data_region: Option<&'a str>,
) -> Result<Destination<'a>, NoRoute> {
    let elsewhere = data_region.filter(|wanted| Some(*wanted) != here);
    match (arrival, data_region, elsewhere) {
        (Arrival::FromDirector, _, _) => Err(NoRoute::PassedOnAlready),
        (Arrival::FromRegion, _, Some(wanted)) => Err(NoRoute::WrongRegion {
            wanted: wanted.to_owned(),
            here: here.unwrap_or("none").to_owned(),
        }),
        (_, Some(wanted), None) => Ok(Destination::WorkersOf(wanted)),
        (Arrival::FromRegion, None, _) => Ok(Destination::Workers),
        (Arrival::FromCaller, _, Some(wanted)) => Ok(Destination::Region(wanted)),
        (Arrival::FromCaller, None, _) => Ok(Destination::Anywhere),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_every_arrival_and_data_region_then_the_call_goes_where_the_page_says() {
        let wrong = || NoRoute::WrongRegion {
            wanted: "us".to_owned(),
            here: "eu".to_owned(),
        };
        for (arrival, data_region, expected) in [
            (Arrival::FromCaller, None, Ok(Destination::Anywhere)),
            (
                Arrival::FromCaller,
                Some("eu"),
                Ok(Destination::WorkersOf("eu")),
            ),
            (
                Arrival::FromCaller,
                Some("us"),
                Ok(Destination::Region("us")),
            ),
            (Arrival::FromRegion, None, Ok(Destination::Workers)),
            (
                Arrival::FromRegion,
                Some("eu"),
                Ok(Destination::WorkersOf("eu")),
            ),
            (Arrival::FromRegion, Some("us"), Err(wrong())),
            (Arrival::FromDirector, None, Err(NoRoute::PassedOnAlready)),
            (
                Arrival::FromDirector,
                Some("eu"),
                Err(NoRoute::PassedOnAlready),
            ),
        ] {
            assert_eq!(
                destination(Some("eu"), arrival, data_region),
                expected,
                "{arrival:?} {data_region:?}"
            );
        }
    }

    #[test]
    fn given_a_director_without_a_region_then_data_of_a_region_does_not_stay_here() {
        assert_eq!(
            destination(None, Arrival::FromCaller, Some("eu")),
            Ok(Destination::Region("eu"))
        );
    }
}
