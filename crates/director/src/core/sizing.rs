//! Advice on the size of a worker pool from what its machines report.

/// Below this average, in percent, workers have little to do.
pub const IDLE_AVERAGE_CPU: f64 = 30.0;
/// A 99th percentile below this, in percent, says that they have little to do at their busiest, too.
pub const IDLE_P99_CPU: f64 = 60.0;
/// A 99th percentile above this, in percent, says that calls wait for a processor.
pub const BUSY_P99_CPU: f64 = 80.0;

/// What the workers' machines report over a day or a week, in percent of what they have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SizingMetrics {
    /// Average use of their processors.
    pub avg_cpu_usage: f64,
    /// Average use of their memory.
    pub avg_memory_usage: f64,
    /// 99th percentile of the use of their processors.
    pub p99_cpu_usage: f64,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizingRecommendation {
    /// Take workers away, or give them smaller machines.
    DownsizeWorkers,
    /// Add workers, or give them larger machines.
    UpsizeWorkers,
    /// Leave it.
    CurrentSizingOptimal,
}

impl SizingRecommendation {
    /// The name that programs read.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DownsizeWorkers => "downsize_workers",
            Self::UpsizeWorkers => "upsize_workers",
            Self::CurrentSizingOptimal => "current_sizing_optimal",
        }
    }
}

/// The advice. Values on a boundary count as in between; memory is reported beside it and decides nothing.
#[must_use]
pub fn recommend_sizing(metrics: &SizingMetrics) -> SizingRecommendation {
    if metrics.avg_cpu_usage < IDLE_AVERAGE_CPU && metrics.p99_cpu_usage < IDLE_P99_CPU {
        SizingRecommendation::DownsizeWorkers
    } else if metrics.p99_cpu_usage > BUSY_P99_CPU {
        SizingRecommendation::UpsizeWorkers
    } else {
        SizingRecommendation::CurrentSizingOptimal
    }
}

#[cfg(test)]
mod tests {
    use super::SizingRecommendation::{CurrentSizingOptimal, DownsizeWorkers, UpsizeWorkers};
    use super::*;

    #[test]
    fn given_figures_on_both_sides_of_each_boundary_then_the_advice_changes_there_and_nowhere_else()
    {
        for (avg_cpu_usage, p99_cpu_usage, expected) in [
            (0.0, 0.0, DownsizeWorkers),
            (29.9, 59.9, DownsizeWorkers),
            (30.0, 59.9, CurrentSizingOptimal),
            (29.9, 60.0, CurrentSizingOptimal),
            (30.0, 60.0, CurrentSizingOptimal),
            (29.9, 80.0, CurrentSizingOptimal),
            (50.0, 80.0, CurrentSizingOptimal),
            (50.0, 80.1, UpsizeWorkers),
            (10.0, 80.1, UpsizeWorkers),
            (95.0, 100.0, UpsizeWorkers),
        ] {
            for avg_memory_usage in [1.0, 99.0] {
                let metrics = SizingMetrics {
                    avg_cpu_usage,
                    avg_memory_usage,
                    p99_cpu_usage,
                };
                assert_eq!(recommend_sizing(&metrics), expected, "{metrics:?}");
            }
        }
    }

    #[test]
    fn given_figures_that_are_none_then_nothing_is_changed() {
        let metrics = SizingMetrics {
            avg_cpu_usage: f64::NAN,
            avg_memory_usage: f64::NAN,
            p99_cpu_usage: f64::NAN,
        };
        assert_eq!(recommend_sizing(&metrics), CurrentSizingOptimal);
    }
}
