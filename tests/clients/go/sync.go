package main

import (
	"context"
	"errors"
	"io"
	"sort"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

func describeEntries(entries []*types.Entry) []object {
	out := []object{}
	for _, entry := range entries {
		selectors := []string{}
		for _, selector := range entry.Selectors {
			selectors = append(selectors, selector.Type+":"+selector.Value)
		}
		sort.Strings(selectors)
		path := ""
		if entry.SpiffeId != nil {
			path = entry.SpiffeId.Path
		}
		out = append(out, object{"id": entry.Id, "path": path, "selectors": selectors, "revision": entry.RevisionNumber, "hint": entry.Hint})
	}
	return out
}

// sync talks as SPIRE's agent does: it asks for everything, and for the entries by ID when the
// server answers with revisions.
func (a *spireAgent) sync(ctx context.Context) (object, error) {
	stream, err := entryv1.NewEntryClient(a.conn).SyncAuthorizedEntries(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{OutputMask: entryMask}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if len(first.EntryRevisions) == 0 {
		if first.More {
			return nil, errors.New("a first page of entries says that there are more")
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			return nil, errors.New("the server did not end the stream after the only page")
		}
		return object{"paged": false, "pages": 1, "entries": describeEntries(first.Entries)}, nil
	}
	revisions, pages, pageSize := first.EntryRevisions, 1, len(first.EntryRevisions)
	for page := first; page.More; pages++ {
		if page, err = stream.Recv(); err != nil {
			return nil, err
		}
		revisions = append(revisions, page.EntryRevisions...)
	}
	ids := []string{}
	for _, revision := range revisions {
		if revision.RevisionNumber < 0 || revision.CreatedAt == 0 {
			return nil, errors.New("a revision without created_at")
		}
		ids = append(ids, revision.Id)
	}
	sort.Strings(ids)
	var entries []*types.Entry
	for len(ids) > 0 {
		n := min(pageSize, len(ids))
		if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{Ids: ids[:n]}); err != nil {
			return nil, err
		}
		ids = ids[n:]
		for more := true; more; {
			page, err := stream.Recv()
			if err != nil {
				return nil, err
			}
			entries, more = append(entries, page.Entries...), page.More
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return nil, errors.New("the server did not end the stream after the client did")
	}
	return object{"paged": true, "pages": pages, "entries": describeEntries(entries)}, nil
}
