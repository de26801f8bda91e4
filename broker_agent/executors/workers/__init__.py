"""Worker processes of connections, beside the agent: started on demand, pooled, killable."""
