//! What a session does with heads.

use super::*;
use crate::consume::watch::Finding;

impl Session {
    /// What a connection begins with.
    pub(super) fn watched(&self) -> Watch {
        Watch::new(self.own.is_some(), self.began.elapsed())
    }

    pub(super) async fn heads_told(&mut self, heads: Option<Heads>) -> Result<(), End> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        add(&self.metrics.heads, u64::from(heads.is_some()));
        let finding = self.watch.told(reader, heads, self.began.elapsed());
        self.found(finding).await
    }

    pub(super) async fn look_at_heads(&mut self) -> Result<(), End> {
        let Some(reader) = &mut self.reader else { return Ok(()) };
        let idle = self.held.is_empty() && self.returning.is_empty();
        let finding = self.watch.look(reader, idle, self.began.elapsed());
        self.found(finding).await
    }

    async fn found(&mut self, finding: Finding) -> Result<(), End> {
        match finding {
            Finding::Nothing => {}
            Finding::Whole => {
                add(&self.metrics.relists_skipped, 1);
                tracing::info!("nothing was lost with the connection: nothing is listed again");
            }
            Finding::Unknown(relist) => self.relist(relist).await?,
            Finding::Lost(relist) => {
                self.rebinds = true;
                add(&self.metrics.gaps, 1);
                self.relist(relist).await?;
            }
        }
        Ok(())
    }
}
