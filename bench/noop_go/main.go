// Command noop_go is an ext_proc server that does nothing, in the modes Douane uses: the request's body is awaited
// (FULL_DUPLEX_STREAMED), then everything is sent on as it came; response chunks (STREAMED) are acknowledged.
// It is what the same data path costs without Python. Usage: noop_go SOCKET
package main

import (
	"io"
	"log"
	"net"
	"os"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ext "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"
)

const maxChunk = 60_000 // as ext_proc/codec.py: Envoy takes at most 64 KB in one streamed_response

type server struct {
	ext.UnimplementedExternalProcessorServer
	verdict *structpb.Struct
}

func (s *server) Process(stream ext.ExternalProcessor_ProcessServer) error {
	var body []byte
	for {
		message, err := stream.Recv()
		if err == io.EOF {
			return status.Error(codes.Internal, "the stream ended early")
		}
		if err != nil {
			return err
		}
		var last bool
		switch m := message.Request.(type) {
		case *ext.ProcessingRequest_RequestHeaders:
			if m.RequestHeaders.EndOfStream {
				err = stream.Send(s.head())
			}
		case *ext.ProcessingRequest_RequestBody:
			body = append(body, m.RequestBody.Body...)
			if m.RequestBody.EndOfStream {
				if err = stream.Send(s.head()); err == nil {
					err = sendBody(stream, body)
				}
			}
		case *ext.ProcessingRequest_RequestTrailers:
			if err = stream.Send(s.head()); err == nil {
				err = sendBody(stream, body)
			}
		case *ext.ProcessingRequest_ResponseHeaders:
			last = m.ResponseHeaders.EndOfStream
			err = stream.Send(&ext.ProcessingResponse{Response: &ext.ProcessingResponse_ResponseHeaders{ResponseHeaders: &ext.HeadersResponse{}}})
		case *ext.ProcessingRequest_ResponseBody:
			last = m.ResponseBody.EndOfStream
			err = stream.Send(&ext.ProcessingResponse{Response: &ext.ProcessingResponse_ResponseBody{ResponseBody: &ext.BodyResponse{}}})
		}
		if err != nil || last {
			return err
		}
	}
}

func (s *server) head() *ext.ProcessingResponse {
	return &ext.ProcessingResponse{
		Response: &ext.ProcessingResponse_RequestHeaders{RequestHeaders: &ext.HeadersResponse{
			Response: &ext.CommonResponse{HeaderMutation: &ext.HeaderMutation{
				SetHeaders: []*core.HeaderValueOption{{
					Header:       &core.HeaderValue{Key: "dd-api-key", RawValue: []byte("the-real-key")},
					AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
				}},
			}},
		}},
		DynamicMetadata: s.verdict,
	}
}

func sendBody(stream ext.ExternalProcessor_ProcessServer, body []byte) error {
	for {
		n := min(len(body), maxChunk)
		err := stream.Send(&ext.ProcessingResponse{Response: &ext.ProcessingResponse_RequestBody{RequestBody: &ext.BodyResponse{
			Response: &ext.CommonResponse{BodyMutation: &ext.BodyMutation{Mutation: &ext.BodyMutation_StreamedResponse{
				StreamedResponse: &ext.StreamedBodyResponse{Body: body[:n], EndOfStream: n == len(body)},
			}}},
		}}})
		if body = body[n:]; err != nil || len(body) == 0 {
			return err
		}
	}
}

func main() {
	verdict, err := structpb.NewStruct(map[string]any{"gate": map[string]any{"verdict": "allow"}})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	s := grpc.NewServer()
	ext.RegisterExternalProcessorServer(s, &server{verdict: verdict})
	log.Fatal(s.Serve(listener))
}
