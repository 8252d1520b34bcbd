-- Deleting an episode deletes its jobs. The unique index over extractions is partial, which the foreign key
-- cannot use: forgetting a client read all jobs once for each of its episodes.
CREATE INDEX jobs_episode ON memory.jobs (episode_id);
