package main

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/exp/bundle/witbundle"
	"github.com/spiffe/go-spiffe/v2/exp/svid/witsvid"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// describeWIT says what the library makes of WIT-SVIDs, checked against the bundles given.
func describeWIT(svids []*witsvid.SVID, bundles witbundle.Source) (object, error) {
	out := []object{}
	for _, svid := range svids {
		checked, err := witsvid.ParseAndValidate(svid.Marshal(), bundles)
		if err != nil {
			return nil, err
		}
		private, ok := svid.PrivateKey.(*ecdsa.PrivateKey)
		if !ok {
			return nil, errors.New("the private key is not an ECDSA key")
		}
		out = append(out, object{
			"id": svid.ID.String(), "hint": svid.Hint, "kid": svid.KeyID, "token": svid.Marshal(),
			"expiry": svid.Expiry.Unix(), "bound": private.PublicKey.Equal(checked.PublicKey),
		})
	}
	return object{"svids": out}, nil
}

// fetchWIT takes a SPIFFE ID, or nothing for all identities.
func fetchWIT(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client, err := workloadapi.New(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	wanted := ""
	if len(args) > 0 {
		wanted = args[0]
	}
	svids, err := client.FetchWITSVIDs(ctx, wanted)
	if err != nil {
		return err
	}
	bundles, err := client.FetchWITBundles(ctx)
	if err != nil {
		return err
	}
	found, err := describeWIT(svids, bundles)
	if err != nil {
		return err
	}
	emit(found)
	return nil
}

// watchWIT prints the WIT-SVIDs of a source whenever it is updated, until it is ended.
func watchWIT(ctx context.Context, args []string) error {
	source, err := workloadapi.NewWITSource(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	for {
		svid, err := source.GetWITSVIDForID(spiffeid.RequireFromString(args[0]))
		if err != nil {
			return err
		}
		found, err := describeWIT([]*witsvid.SVID{svid}, source)
		if err != nil {
			// The bundle with a new key may come after the first token that it signed.
			found = object{"error": err.Error()}
		}
		emit(found)
		if err := source.WaitUntilUpdated(ctx); err != nil {
			return err
		}
	}
}
